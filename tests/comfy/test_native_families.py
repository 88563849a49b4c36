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
    """(A MODEL with random weights, its network, its latents' shape, its text's dimension), None if ComfyUI has none."""
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
    described = getattr(comfy.supported_models, kind)({"image_model": name, **config, **changed, "dtype": torch.float32})
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
        wide = torch.cat([x[..., -padding * patch:], x, x[..., : padding * patch]], dim=-1)
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
    """The node under the stock KSampler, with other patches, and what becomes of the model it was given."""
    import torch
    from dit360_comfy.native_families import KREA, QWEN
    from dit360_comfy.nodes.native import NODES

    pad, attention = NODES["DiT360CircularPadding"]().run, NODES["DiT360Attention"]().run
    told = {}
    for name in ("flux2", "qwen_image", "krea2"):
        made = small(name)
        if made is None:
            continue
        model, net, shape, words = made
        patch = 1 if name == "flux2" else 2
        plain, widths = sampled(model, shape, words)
        told[name] = case = {"unpadded width": sorted(set(widths)) == [shape[-1]]}
        try:
            padded, widths = sampled(pad(model, 1)[0], shape, words)
        except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
            case["refused"] = [type(error).__name__, str(error)]
            continue
        case["padded inside"] = sorted(set(widths)) == [shape[-1]]  # a hook sees the picture as it is
        case["moved"] = float((padded - plain).abs().max())
        case["finite"] = bool(padded.isfinite().all())
        case["shape"] = list(padded.shape)
        again, _ = sampled(model, shape, words)
        case["unpatched as before"] = bool(again.equal(plain))
        replaced, _ = sampled(pad(pad(model, 3)[0], 1)[0], shape, words)
        case["second replaces first"] = bool(replaced.equal(padded))
        off, _ = sampled(pad(pad(model, 3)[0], 0)[0], shape, words)
        case["zero takes it off"] = bool(off.equal(plain))
        for backend, slices in (("eager", 0), ("sdpa", 16)):
            ours, _ = sampled(attention(pad(model, 1)[0], backend, slices, True)[0], shape, words)
            case[f"attention {backend}"] = float((ours - padded).abs().max() / padded.abs().max())
        seen = []

        def other(executor, *given, seen=seen, **named):
            seen.append(given[0].shape[-1])
            return executor(*given, **named)

        wrapped = model.clone()
        wrapped.add_wrapper_with_key("diffusion_model", "other", other)
        composed, _ = sampled(pad(wrapped, 1)[0], shape, words)
        case["another wrapper"] = bool(composed.equal(padded)) and sorted(set(seen)) == [shape[-1]]
        refused = {}
        for why, ask in {
            "too wide": lambda: sampled(pad(model, 9)[0], shape, words),
            "odd width": lambda: sampled(pad(model, 1)[0], (*shape[:-1], 15), words),
            "area": lambda: sampled(pad(model, 1)[0], shape, words, extra={"area": (4, 4, 0, 4), "strength": 1.0}),
            "reference": lambda: sampled(pad(model, 1)[0], shape, words, extra={
                "reference_latents": [torch.zeros(1, *shape)], "reference_latents_method": "new",
            }),
        }.items():  # fmt: skip
            if why == "odd width" and patch == 1:
                continue
            try:
                ask()
            except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
                refused[why] = type(error).__name__
        case["refused inputs"] = refused
        if name == "qwen_image":
            case["a patch of blocks"] = patched_blocks(model, shape, words)
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


_INSIDE = (small, sampled, as_bias, ByHand, parity, in_samplers, patched_blocks)

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
        assert case.pop("unpadded width"), told
        if "refused" in case:  # an older Qwen-Image, which asks nobody for positions
            kind, sentence = case["refused"]
            assert (name, kind) == ("qwen_image", "InputError")
            assert "or this ComfyUI is too old for it" in sentence
            continue
        refused = case.pop("refused inputs")
        assert set(refused) >= {"too wide", "area", "reference"}
        assert set(refused.values()) == {"InputError"}, refused
        assert case.pop("moved") > 1e-2
        assert max(case.pop("attention eager"), case.pop("attention sdpa")) <= 1e-3, told
        if name == "qwen_image":
            blocks = case.pop("a patch of blocks")
            assert blocks["sizes"] == [[16, 32]]
            assert blocks["moved"] > 1e-2
            assert blocks["off"] <= 1e-3
        assert case.pop("shape") == ([2, 128, 4, 8] if name == "flux2" else [2, 16, 1, 8, 16])
        assert all(case.values()), told
