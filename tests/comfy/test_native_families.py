"""The nodes for ComfyUI's own FLUX.2, Qwen-Image and Krea 2: small random ones of its classes, padded and by hand."""

import functools

import pytest
import torch
from comfy_inside import run_inside
from dit360_comfy.native_families import FLUX, KREA, QWEN
from dit360_comfy.native_padding import CircularPadding, _Ids
from dit360_core.errors import InputError
from dit360_core.sphere.grid import Grid

# ---------------------------------------------------------------------------------------------------- without ComfyUI


def _ids(rows, columns, first):
    ids = torch.zeros(1, rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns) + first
    return ids.flatten(1, 2)


@pytest.mark.parametrize("family", [FLUX, QWEN, KREA], ids=["flux", "qwen", "krea"])
@pytest.mark.parametrize(("columns", "padding"), [(6, 1), (7, 2), (4, 4)])
def test_pad_columns_get_the_ids_of_what_they_copy_and_the_text_stays_where_it_was(family, columns, padding):
    grid, wide = Grid(3, columns, padding), columns + 2 * padding
    middle = (lambda n: -(n // 2)) if family.centred else lambda n: 0
    text = torch.arange(max(wide // 2, 1), max(wide // 2, 1) + 4).reshape(1, -1, 1).repeat(1, 1, 3)
    out = _Ids(grid, family, False, 3)({"img_ids": _ids(3, wide, middle(wide)), "txt_ids": text})
    assert torch.equal(out["img_ids"], _ids(3, columns, middle(columns))[:, grid.pad_index()])
    begin = columns // 2 if family.centred else int(text[0, 0, 0])
    assert out["txt_ids"][0, 0].tolist() == [begin] * 3


def test_the_text_begins_where_the_taller_side_ends():
    # 8 rows: the text begins at 4, whether the picture is 4 or 6 columns wide.
    text = torch.full((1, 2, 3), 4)
    out = _Ids(Grid(8, 4, 1), QWEN, False, 8)({"img_ids": _ids(8, 6, -3), "txt_ids": text})
    assert torch.equal(out["txt_ids"], text)


class _Executor:
    class_obj = type("Net", (), {"patch_size": 2, "patch": 2})

    def __call__(self, *given, **named):
        raise AssertionError("the model was called")


@pytest.mark.parametrize(("family", "shape"), [(FLUX, (1, 16, 1, 4, 8)), (QWEN, (1, 16, 4, 8)), (KREA, (16, 4, 8))])
def test_latents_of_another_model_are_refused(family, shape):
    with pytest.raises(InputError, match="do not wrap"):
        CircularPadding(1, family)(_Executor(), torch.zeros(shape), None, None, transformer_options={})


# --------------------------------------------------------------------------------------------------- inside a ComfyUI


def small(name, **changed):
    """(A MODEL with random weights, its network, its latents' shape, its text's size), or None if ComfyUI has none."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    configs = {
        "flux2": ("Flux2", (128, 4, 8), 32, {
            "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 32, "hidden_size": 64,
            "mlp_ratio": 3.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "axes_dim": [8, 8, 8, 8],
            "theta": 2000, "patch_size": 1, "qkv_bias": False, "guidance_embed": False, "global_modulation": True,
            "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0,
            "txt_ids_dims": [3],
        }),
        "qwen_image": ("QwenImage", (16, 1, 8, 16), 32, {
            "in_channels": 64, "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
            "joint_attention_dim": 32, "axes_dims_rope": (8, 12, 12),
        }),
        "krea2": ("Krea2", (16, 1, 8, 16), 48, {
            "features": 64, "heads": 2, "kvheads": 1, "layers": 2, "txtdim": 16, "txtlayers": 3, "txtheads": 2,
            "txtkvheads": 2,
        }),
    }  # fmt: skip
    kind, shape, words, config = configs[name]
    if not hasattr(comfy.supported_models, kind):
        return None
    described = getattr(comfy.supported_models, kind)(
        {"image_model": name, **config, **changed, "dtype": torch.float32}
    )
    described.set_inference_dtype(torch.float32, None)
    model = described.get_model({})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.diffusion_model.named_parameters():
            # Sharp attention, or no difference between positions would be seen.
            parameter.normal_(1.5 if "norm" in parameter_name else 0.0, 0.2)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu), model.diffusion_model, shape, words


def sampled(model, shape, words, cfg=2.0, sampler="euler", extra=None):
    """Latents of two steps of the stock KSampler, for a batch of two, and how wide each call of the model was."""
    import nodes
    import torch

    generator = torch.Generator().manual_seed(3)
    positive, negative = ([[torch.randn(1, 7, words, generator=generator), dict(extra or {})]] for _ in range(2))
    widths = []
    net = model.model.diffusion_model
    hook = net.register_forward_hook(lambda net, given, out: widths.append(given[0].shape[-1]))
    try:
        with torch.inference_mode():
            (out,) = nodes.common_ksampler(
                model, 5, 2, cfg, sampler, "simple", positive, negative, {"samples": torch.zeros(2, *shape)}
            )
    finally:
        hook.remove()
    return out["samples"], widths


def as_bias(grid, text, references):
    """ComfyUI's attention, without padding but with log 2 (or more) on the keys that padding would repeat."""
    import torch

    bias = torch.cat([grid.key_bias(text), torch.zeros(references, dtype=torch.float64)]).float()

    def attend(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        if k.shape[-2] != len(bias):  # within the text alone, as in Krea 2
            return func(q, k, v, heads, mask, skip_reshape=skip_reshape, **kwargs)
        whole = bias[None] if mask is None else mask + bias
        if whole.ndim == 3:
            whole = whole[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=whole)
        return out.transpose(1, 2).flatten(2)

    return attend


class ByHand:
    """The ids of an unpadded call, and then those for a picture that is wrapped by hand."""

    def __init__(self, index):
        self.index, self.ids = index, None

    def __call__(self, given):
        import torch

        if self.ids is None:
            self.ids = given["img_ids"], given["txt_ids"]
            return given
        image, text = self.ids
        tokens = int(self.index.max()) + 1
        return {**given, "img_ids": torch.cat([image[:, self.index], image[:, tokens:]], dim=1), "txt_ids": text}


def parity():
    """How far padded calls are from those with a bias, and from a picture that is wrapped by hand, for each family."""
    import torch
    from dit360_comfy.native_families import family_of, names_of_inputs
    from dit360_comfy.native_padding import KEY, CircularPadding
    from dit360_core.sphere.grid import Grid

    generator = torch.Generator().manual_seed(4)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    told = {}

    def compare(name, case, padding=1, shape=None, references=0, config=None, **given):
        made = small(name, **(config or {}))
        if made is None or (name == "qwen_image" and "post_input" not in made[1]._forward.__code__.co_consts):
            return  # an older ComfyUI
        _, net, own, words = made
        shape = shape or own
        patch = 1 if name == "flux2" else 2
        frames = shape[1] if name == "qwen_image" else 1
        rows, columns = frames * -(-shape[-2] // patch), shape[-1] // patch
        grid = Grid(rows, columns, padding)
        x, context, sigma = noise(2, *shape), noise(2, 7, words), torch.tensor([0.9, 0.4])
        hand = ByHand(grid.pad_index())
        wide = torch.cat([x[..., -padding * patch :], x, x[..., : padding * patch]], dim=-1)
        padded = CircularPadding(padding, family_of(net), names_of_inputs(net))
        outs = {}
        for way, (shown, options) in {
            "node": (x, {"wrappers": {"diffusion_model": {KEY: [padded]}}}),
            "bias": (x, {"optimized_attention_override": as_bias(grid, 7, references)}),
            "plain": (x, {"patches": {"post_input": [hand]}}),
            "hand": (wide, {"patches": {"post_input": [hand]}}),
        }.items():
            if way == "hand" and {"control", "attention_mask"} & set(given):
                continue  # which are not wrapped by hand
            with torch.inference_mode():
                copied = {k: v.clone() if hasattr(v, "clone") else v for k, v in given.items()}
                outs[way] = net(shown.clone(), sigma, context, transformer_options=options, **copied)
        if "hand" in outs:
            outs["hand"] = outs["hand"][..., padding * patch : -padding * patch]
        size = outs["bias"].abs().max()
        told[f"{name}: {case}"] = {
            way: float((out - outs["node"]).abs().max() / size) for way, out in outs.items() if way != "node"
        }

    for name in ("flux2", "qwen_image", "krea2"):
        compare(name, "one column")
        compare(name, "three columns", padding=3)
    for method in (None, "index", "uxo", "offset", "index_timestep_zero"):
        chosen = {} if method is None else {"ref_latents_method": method}
        compare("flux2", f"reference {method}", references=48, ref_latents=[noise(2, 128, 4, 6), noise(2, 128, 6, 4)],
                **chosen)  # fmt: skip
    for method in (None, "index", "negative_index", "offset", "uxo", "index_timestep_zero"):
        chosen = {} if method is None else {"ref_latents_method": method}
        compare("qwen_image", f"reference {method}", references=12, **chosen,
                ref_latents=[noise(2, 16, 1, 4, 6), noise(2, 16, 1, 6, 4)])  # fmt: skip
    for method in ("index", "index_timestep_zero"):
        compare("krea2", f"reference {method}", references=12, ref_latents_method=method,
                ref_latents=[noise(1, 16, 1, 4, 6), noise(1, 16, 1, 6, 4)])  # fmt: skip
    # FLUX.2 [dev], whose guidance is embedded.
    compare("flux2", "guidance", config={"guidance_embed": True}, guidance=torch.tensor([4.0, 1.0]))
    compare("flux2", "mask", attention_mask=noise(2, 39, 39))
    compare("flux2", "control", control={"input": [noise(2, 32, 64)], "output": [None, noise(2, 32, 64)]})
    compare("qwen_image", "control", control={"input": [noise(2, 32, 64), None]})
    compare("qwen_image", "words left out", attention_mask=torch.tensor([[1] * 7, [1] * 5 + [0] * 2]))
    compare("qwen_image", "odd height", shape=(16, 1, 7, 16))
    compare("qwen_image", "an odd number of columns", shape=(16, 1, 8, 14))
    compare("qwen_image", "taller than wide", shape=(16, 1, 20, 8))
    compare("qwen_image", "two layers", shape=(16, 2, 8, 16))
    compare("krea2", "four axes", shape=(16, 8, 16))
    compare("krea2", "odd height", shape=(16, 1, 7, 16))
    return told


def in_samplers():
    """The node under the stock KSampler, for each family that this ComfyUI has."""
    made = {name: small(name) for name in ("flux2", "qwen_image", "krea2")}
    return {name: in_sampler(name, *one) for name, one in made.items() if one is not None}


def in_sampler(name, model, net, shape, words):
    """With other patches, and what becomes of the model that the node was given."""
    import torch
    from dit360_comfy.nodes.native import NODES

    pad, attention = NODES["DiT360CircularPadding"]().run, NODES["DiT360Attention"]().run

    def run(one, **more):
        return sampled(one, shape, words, **more)

    plain, widths = run(model)
    case = {"sees the picture": sorted(set(widths)) == [shape[-1]]}
    try:
        padded, widths = run(pad(model, 1)[0])
    except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
        return {"refused": [type(error).__name__, str(error)]}
    seen = []

    def other(executor, *given, **named):
        seen.append(given[0].shape[-1])
        return executor(*given, **named)

    wrapped = model.clone()
    wrapped.add_wrapper_with_key("diffusion_model", "other", other)
    case |= {
        "moved": float((padded - plain).abs().max()),
        "finite": bool(padded.isfinite().all()),
        "shape": list(padded.shape),
        "unpatched as before": bool(run(model)[0].equal(plain)),
        "second replaces first": bool(run(pad(pad(model, 3)[0], 1)[0])[0].equal(padded)),
        "zero takes it off": bool(run(pad(pad(model, 3)[0], 0)[0])[0].equal(plain)),
        "another wrapper": bool(run(pad(wrapped, 1)[0])[0].equal(padded)) and sorted(set(seen)) == [shape[-1]],
        "attention": [
            float((run(attention(pad(model, 1)[0], *chosen, True)[0])[0] - padded).abs().max() / padded.abs().max())
            for chosen in (("eager", 0), ("sdpa", 16))
        ],
    }
    placed = {"reference_latents": [torch.zeros(1, *shape)], "reference_latents_method": "new"}
    asked = {
        "too wide": lambda: run(pad(model, 9)[0]),
        "area": lambda: run(pad(model, 1)[0], extra={"area": (4, 4, 0, 4), "strength": 1.0}),
        "reference": lambda: run(pad(model, 1)[0], extra=placed),
    }
    if name != "flux2":
        asked["odd width"] = lambda: sampled(pad(model, 1)[0], (*shape[:-1], 15), words)
    case["refused inputs"] = refusals(asked)
    if name == "qwen_image":
        case["a patch of blocks"] = patched_blocks(model, shape, words)
    return case


def refusals(asked):
    """What each raises."""
    told = {}
    for why, ask in asked.items():
        try:
            ask()
        except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
            told[why] = [type(error).__name__, str(error)]
    return told


def patched_blocks(model, shape, words):
    """A patch that adds to each block what it knows the unpadded picture's size for, as DiffSynth's ControlNets do."""
    import torch
    from dit360_comfy.nodes.native import NODES

    generator = torch.Generator().manual_seed(6)
    added, sizes = torch.randn(1, 32, 64, generator=generator), []

    def patch(given):
        sizes.append([given["x"].shape[-1], given["img"].shape[1]])
        given["img"][:, : added.shape[1]] += added
        return given

    patched = model.clone()
    patched.set_model_patch(patch, "double_block")
    plain, _ = sampled(patched, shape, words)
    padded, _ = sampled(NODES["DiT360CircularPadding"]().run(patched, 1)[0], shape, words)
    # A ControlNet gives the same numbers to the same blocks.
    net = model.model.diffusion_model
    controlled = model.clone()

    def control(executor, *given, **named):
        return executor(*given, **{**named, "control": {"input": [added] * len(net.transformer_blocks)}})

    controlled.add_wrapper_with_key("diffusion_model", "control", control)
    same, _ = sampled(NODES["DiT360CircularPadding"]().run(controlled, 1)[0], shape, words)
    return {
        "sizes": sorted(map(list, set(map(tuple, sizes)))),
        "moved": float((padded - plain).abs().max()),
        "off": float((padded - same).abs().max() / same.abs().max()),
    }


def small_vae(kind):
    """A VAE of ComfyUI with random weights: FLUX.2's, that with a small decoder, or Qwen-Image's and Krea 2's."""
    import comfy.ldm.wan.vae
    import comfy.sd
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    torch.manual_seed(2)
    if kind in ("qwen", "layered"):
        channels = {"image_channels": 4, "conv_out_channels": 4} if kind == "layered" else {}
        if not set(channels) <= set(comfy.ldm.wan.vae.WanVAE.__init__.__code__.co_varnames):
            return None
        made = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                        temperal_downsample=[False, True, True], **channels)  # fmt: skip
        params = None
    else:
        shape = {
            "double_z": True, "z_channels": 8, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 64,
            "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
            "batch_norm_latent": True,
        }  # fmt: skip
        params = {"ddconfig": shape, "embed_dim": 8}
        if kind == "flux2 small":
            params["decoder_ddconfig"] = {**shape, "ch": 32}
        if not hasattr(AutoencoderKL(**params), "bn"):
            return None
        made = AutoencoderKL(**params)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or "gamma" in name:
                parameter.normal_(1.0 if name.endswith(("weight", "gamma")) else 0.0, 0.1)
            elif parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.0, 0.1)
    if params is not None:
        made.bn.running_mean.normal_()
        made.bn.running_var.uniform_(0.5, 2.0)
    config = None if params is None else {"params": params}
    whole = comfy.ldm.wan.vae.WanVAE
    # An older ComfyUI knows one width alone.
    comfy.ldm.wan.vae.WanVAE = lambda **given: whole(**{**given, "dim": 8})
    try:
        return comfy.sd.VAE(sd=made.state_dict(), config=config, dtype=torch.float32)
    finally:
        comfy.ldm.wan.vae.WanVAE = whole


def wrapping(net):
    """Gives ComfyUI's own convolutions columns of the other side; returns what takes that back."""
    import torch
    from torch.nn.functional import conv2d, conv3d

    changed = []
    for conv in net.modules():
        kind = type(conv).__name__
        if kind == "CausalConv3d" and conv.kernel_size[-1] == 3:

            def forward(x, *_, conv=conv, **__):
                x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
                return conv3d(x, conv.weight[:, :, -1:], conv.bias, padding=(0, 1, 0))

            changed.append((conv, "forward", forward))
        elif isinstance(conv, torch.nn.Conv2d) and any(conv.padding):

            def forward(x, weight, bias, conv=conv):
                x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
                return conv2d(x, weight, bias, conv.stride, (1, 0))

            changed.append((conv, "_conv_forward", forward))
        elif kind in ("Downsample", "ZeroPad2d"):  # a column of zeros on the right, and a row below

            def forward(x, *_, module=conv):
                x = torch.nn.functional.pad(torch.cat([x, x[..., :1]], dim=-1), (0, 0, 0, 1))
                return module.conv(x) if hasattr(module, "conv") else x

            changed.append((conv, "forward", forward))
    for module, name, forward in changed:
        setattr(module, name, forward)
    return lambda: [delattr(module, name) for module, name, _ in changed]


def decoding():
    """The seamless decode and encode, for each autoencoder that this ComfyUI has."""
    made = {kind: small_vae(kind) for kind in ("flux2", "flux2 small", "qwen")}
    told = {kind: decoded(vae, kind == "qwen") for kind, vae in made.items() if vae is not None}
    if (layered := small_vae("layered")) is not None:
        from dit360_comfy.native_vae import decode_seamless

        told |= refusals({"layered": lambda: decode_seamless(layered, None)})
    return told


def decoded(vae, frames):
    """Against the core's and ComfyUI's own. frames: whether latents have an axis of them."""
    import torch
    from dit360_comfy.native_autoencoders import as_diffusers
    from dit360_comfy.nodes.native import NODES
    from dit360_core.planning.tiling import choose_tiling
    from dit360_core.plugins.offers import TilingSettings
    from dit360_core.plugins.registry import default_registry
    from dit360_core.system.machine import Machine

    decode, encode = NODES["DiT360VAEDecode"]().run, NODES["DiT360VAEEncode"]().run
    side = 8 if frames else 16
    latents = torch.randn((2, 16, 1, 8, 16) if frames else (2, 32, 4, 8), generator=torch.Generator().manual_seed(1))
    net = vae.first_stage_model

    def stock():
        made = vae.decode(latents)
        return made[:, 0] if frames else made

    with torch.inference_mode():
        before = stock()
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        (image,) = decode({"samples": latents}, vae)
        (rolled,) = decode({"samples": latents.roll(3, -1)}, vae)
        (coded,) = encode(image, vae)
        (turned,) = encode(image.roll(3 * side, 2), vae)
        stop = wrapping(net)
        theirs, theirs_coded = stock(), torch.cat([vae.encode(one) for one in image.split(1)])
        stop()
        again = stock()
        unwrapped = vae.encode(image[:1])
    mine, tiled = as_diffusers(net), {}
    plain = latents[:, :, 0] if frames else latents
    if not frames:
        spread = (net.bn.running_var + net.bn.eps).sqrt()[:, None, None]
        plain = torch.nn.functional.pixel_shuffle(latents * spread + net.bn.running_mean[:, None, None], 2)
    for level in ("stored", "mixed", "recomputed"):
        choice, tiling = choose_tiling(
            "exact", TilingSettings(mode="always", level=level, tile_size=64), 128, 64,
            registry=default_registry(), machine=Machine(device="cpu"), precision="fp32", vae=mine,
        )  # fmt: skip
        pixels = tiling.decode(mine, plain) / 2 + 0.5
        tiled[f"{choice.used} {level}"] = float((pixels.clamp(0, 1).movedim(1, -1) - image).abs().max())
    own = net.decoder.conv1.weight if frames else net.decoder.conv_in.weight
    hole = torch.zeros(1, 64, 128)
    hole[:, 24:40, :24] = 1
    (masked,) = encode(image, vae, mask=hole, mask_grow=0.0)
    asked = {
        "channels": lambda: decode({"samples": latents[:, :4]}, vae),
        "size": lambda: encode(image[:, :, :-8][:, :-1], vae),
    }
    if frames:
        asked["frames"] = lambda: decode({"samples": torch.cat([latents, latents], dim=2)}, vae)
    return {
        "shape": list(image.shape),
        "coded": list(coded["samples"].shape) == list(latents.shape),
        "spread": float(image.std()),
        "yaw": float((rolled.roll(-3 * side, 2) - image).abs().max()),
        "encode yaw": float((turned["samples"].roll(-3, -1) - coded["samples"]).abs().max()),
        "comfyui's modules, wrapping": float((theirs - image).abs().max()),
        "encode, comfyui's modules, wrapping": float((theirs_coded - coded["samples"]).abs().max()),
        "tiled": tiled,
        "stock differs at the edge": float((before - image).abs().amax(dim=(0, 1, 3))[0]),
        "encode moved": float((unwrapped - coded["samples"][:1]).abs().max()),
        "stock as before": bool(again.equal(before)),
        "weights as before": all(t.equal(state[n]) for n, t in net.state_dict().items()),
        "shared": mine.decoder.conv_in.weight.data_ptr() == own.data_ptr(),
        "mask": list(masked["noise_mask"].shape),
        "masked": float(masked["noise_mask"][0].sum()),
        "refused": refusals(asked),
    }


def loras():
    """How far weights of a patched model are from those that a LoRA makes of them, for each family that there is."""
    import tempfile
    from pathlib import Path

    # The second part of the text's qkv where that is one layer, and a whole layer; each by two names.
    cases = {
        "flux2": (
            ("transformer_blocks.0.attn.add_k_proj", None, "double_blocks.0.txt_attn.qkv.weight", slice(64, 128)),
            ("single_transformer_blocks.1.attn.to_out", "single_blocks.1.linear2", "single_blocks.1.linear2.weight",
             slice(None)),
        ),
        "qwen_image": (
            ("transformer_blocks.1.attn.add_k_proj", None, "transformer_blocks.1.attn.add_k_proj.weight", slice(None)),
            ("transformer_blocks.0.img_mlp.net.2", None, "transformer_blocks.0.img_mlp.net.2.weight", slice(None)),
        ),
        "krea2": (
            ("transformer_blocks.1.attn.to_k", "blocks.1.attn.wk", "blocks.1.attn.wk.weight", slice(None)),
            ("text_fusion.refiner_blocks.0.ff.down", "txtfusion.refiner_blocks.0.mlp.down",
             "txtfusion.refiner_blocks.0.mlp.down.weight", slice(None)),
        ),
    }  # fmt: skip
    made = {name: (small(name), layers) for name, layers in cases.items()}
    return {
        name: lora_in(one[0], layers, Path(tempfile.mkdtemp()))
        for name, (one, layers) in made.items()
        if one is not None
    }


def lora_in(model, layers, folder):
    """For each way to name the layers; and what is said of files that are for another model."""
    import json
    import logging

    import torch
    from comfy.utils import get_attr
    from dit360_comfy.native_lora import with_lora
    from safetensors.torch import save_file

    net, generator = model.model.diffusion_model, torch.Generator().manual_seed(4)

    def weights():
        return [get_attr(net, place)[rows].detach().clone() for *_, place, rows in layers]

    before, told, said = weights(), {"off": {}}, []
    factors = [
        (torch.randn(4, one.shape[1], generator=generator), torch.randn(one.shape[0], 4, generator=generator))
        for one in before
    ]
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("dit360").addHandler(handler)
    styles = {
        "peft": lambda diffusers, own: f"base_model.model.{diffusers}",
        "adapter": lambda diffusers, own: f"base_model.model.{diffusers}",
        "diffusers": lambda diffusers, own: f"transformer.{diffusers}",
        "plain": lambda diffusers, own: diffusers,
        "comfyui": lambda diffusers, own: f"diffusion_model.{own or diffusers}",
        "kohya": lambda diffusers, own: "lora_unet_" + (own or diffusers).replace(".", "_"),
        "kohya, diffusers": lambda diffusers, own: "lora_unet_" + diffusers.replace(".", "_"),
    }
    file = folder / "adapter_model.safetensors"
    for style, named in styles.items():
        state, kohya = {}, style.startswith("kohya")
        for (diffusers, own, *_), pair in zip(layers, factors, strict=True):
            for kind, tensor in zip(("lora_down", "lora_up") if kohya else ("lora_A", "lora_B"), pair, strict=True):
                state[f"{named(diffusers, own)}.{kind}{'.default' if style == 'adapter' else ''}.weight"] = tensor
            if kohya:
                state[f"{named(diffusers, own)}.alpha"] = torch.tensor(8.0)
        save_file(state, file)
        (folder / "adapter_config.json").unlink(missing_ok=True)
        if style in ("peft", "adapter"):
            (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
        patched = with_lora(model, str(file), 0.5)
        patched.patch_model()
        now = weights()
        patched.unpatch_model()
        scale = 0.5 * (2 if kohya or style in ("peft", "adapter") else 1)
        told["off"][style] = max(
            float((m - b - scale * up @ down).abs().max())
            for m, b, (down, up) in zip(now, before, factors, strict=True)
        )
    told["said"] = list(said)
    nowhere = {f"lora_unet_nowhere.lora_{way}.weight": torch.ones(4, 4) for way in ("down", "up")}
    save_file({**state, **nowhere}, file)
    with_lora(model, str(file), 0.5)
    told["left out"] = [line for line in said if "lora_unet_nowhere" in line]
    wrong = {name: torch.cat([tensor, tensor]) if "lora_up" in name else tensor for name, tensor in state.items()}
    save_file(wrong, folder / "wide.safetensors")
    save_file({"transformer.blocks_of_none.lora_A.weight": factors[0][0],
               "transformer.blocks_of_none.lora_B.weight": factors[0][1]}, folder / "other.safetensors")  # fmt: skip
    told["refused"] = refusals({
        name: lambda name=name: with_lora(model, str(folder / f"{name}.safetensors"), 1.0) for name in ("wide", "other")
    })  # fmt: skip
    told["as before"] = all(now.equal(old) for now, old in zip(weights(), before, strict=True))
    return told


_INSIDE = (small, sampled, as_bias, ByHand, parity, in_samplers, in_sampler, refusals, patched_blocks, small_vae,
           wrapping, decoding, decoded, loras, lora_in)  # fmt: skip

in_comfyui = functools.partial(run_inside, helpers=_INSIDE)


@pytest.mark.comfyui
def test_every_padded_call_is_the_picture_wrapped_by_hand_and_the_bias_that_stands_for_it():
    told = in_comfyui(parity)
    if not told:
        pytest.skip("this ComfyUI has none of these models")
    assert sum("hand" in case for case in told.values()) > len(told) / 2
    assert min(case.pop("plain") for case in told.values()) > 1e-3, told
    assert max(max(case.values()) for case in told.values()) <= 1e-5, told


@pytest.mark.comfyui
def test_under_the_stock_sampler_each_family_pads_and_the_model_it_came_from_stays_as_it_was():
    told = in_comfyui(in_samplers)
    if not told:
        pytest.skip("this ComfyUI has none of these models")
    for name, case in told.items():
        if "refused" in case:  # an older Qwen-Image, which asks nobody for positions
            kind, sentence = case["refused"]
            assert (name, kind) == ("qwen_image", "InputError")
            assert "or this ComfyUI is too old for it" in sentence
            continue
        refused = case.pop("refused inputs")
        assert set(refused) >= {"too wide", "area", "reference"}
        assert {kind for kind, _ in refused.values()} == {"InputError"}, refused
        assert case.pop("moved") > 1e-2
        assert max(case.pop("attention")) <= 1e-3, told
        if name == "qwen_image":
            blocks = case.pop("a patch of blocks")
            assert blocks["sizes"] == [[16, 32]]
            assert blocks["moved"] > 1e-2
            assert blocks["off"] <= 1e-3
        assert case.pop("shape") == ([2, 128, 4, 8] if name == "flux2" else [2, 16, 1, 8, 16])
        assert all(case.values()), told


@pytest.mark.comfyui
def test_each_family_s_decode_wraps_exactly_and_leaves_the_vae_as_it_was():
    told = in_comfyui(decoding)
    assert "qwen" in told
    kind, sentence = told.pop("layered", ("InputError", "gives 4, and not 3"))  # an older ComfyUI has none
    assert kind == "InputError"
    assert "gives 4, and not 3" in sentence
    for name, case in told.items():
        side = 8 if name == "qwen" else 16
        assert case["shape"] == [2, 64, 128, 3]
        assert case["spread"] > 0.05
        for what in ("yaw", "encode yaw", "comfyui's modules, wrapping", "encode, comfyui's modules, wrapping"):
            assert case[what] <= 1e-5, (what, told)
        assert set(case["tiled"]) == {"exact stored", "exact mixed", "exact recomputed"}
        assert max(case["tiled"].values()) <= 1e-5, told
        assert min(case["stock differs at the edge"], case["encode moved"]) > 1e-3, told
        assert all(case[what] for what in ("coded", "stock as before", "weights as before", "shared")), told
        # 16 rows of 24 columns from row 24 on, of which a latent of 16 pixels is made anew if any of its pixels is.
        assert case["mask"] == ([2, 1, 1, 8, 16] if name == "qwen" else [2, 1, 4, 8])
        assert case["masked"] == (6 if name == "qwen" else 4)
        refused = case["refused"]
        assert {kind for kind, _ in refused.values()} == {"InputError"}, refused
        assert f"height/{side}, width/{side}" in refused["channels"][1]
        assert f"multiples of {side} pixels" in refused["size"][1]
        assert name != "qwen" or "hold 2 frames" in refused["frames"][1]


@pytest.mark.comfyui
def test_a_lora_is_applied_in_each_family_whatever_its_layers_are_called_and_never_none_of_it():
    told = in_comfyui(loras)
    if not told:
        pytest.skip("this ComfyUI has none of these models")
    titles = {"flux2": "FLUX.2", "qwen_image": "Qwen-Image", "krea2": "Krea 2"}
    for name, case in told.items():
        assert max(case["off"].values()) <= 1e-5, told
        assert len(case["off"]) == 7
        assert case["said"] == [line for line in case["said"] if line.startswith("lora: ")]
        assert len(case["left out"]) == 1, case
        refused = case["refused"]
        assert "was made for another model: its layer" in refused["wide"][1]
        assert f"holds no LoRA for {titles[name]}: none of its 2 tensors" in refused["other"][1]
        assert case["as before"]
