"""The nodes for ComfyUI's own FLUX: alone, and inside a real ComfyUI against the core's pipeline with equal weights."""

import copy
import functools
import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
from comfy_inside import run_inside
from comfy_server import Server, comfyui_dir, errors
from dit360_comfy import native_attention
from dit360_comfy.native_attention import SLOT, Override, description_of, with_attention
from dit360_comfy.native_autoencoders import as_diffusers
from dit360_comfy.native_padding import CircularPadding, refuse_areas
from dit360_comfy.nodes.native import NODES
from dit360_comfy.nodes.report import DiT360Backends
from dit360_core.errors import BackendUnavailable, InputError, UnknownName
from dit360_core.plugins.registry import default_registry

# ---------------------------------------------------------------------------------------------------- without ComfyUI


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_every_node_says_what_it_is_and_every_input_what_it_does(node):
    assert node.CATEGORY == "dit360/native"
    assert node.DISPLAY_NAME.startswith("DiT360 ")
    assert node.DESCRIPTION.endswith(".")
    assert len(node.RETURN_TYPES) == len(node.OUTPUT_TOOLTIPS)
    sections = node.INPUT_TYPES()
    inputs = {**sections["required"], **sections.get("optional", {})}
    names = list(inspect.signature(node.run).parameters)
    assert names == ["self", *inputs]
    assert all(len(given[-1]["tooltip"]) > 15 for given in inputs.values())


def test_the_ids_that_workflows_know():
    assert {"DiT360Attention", "DiT360CircularPadding", "DiT360VAEDecode"} <= set(NODES)


def test_the_drop_down_has_every_backend_and_family_of_the_registry():
    names = NODES["DiT360Attention"].INPUT_TYPES()["required"]["attention_backend"][0]
    entries = default_registry().entries("attention")
    assert names[0] == "auto"
    assert {e.name for e in entries} | {e.family for e in entries if e.family} <= set(names)


def test_padding_is_one_column_by_default_as_in_training():
    (_, settings) = NODES["DiT360CircularPadding"].INPUT_TYPES()["required"]["circular_padding"]
    assert (settings["default"], settings["min"], settings["max"]) == (1, 0, 100)


def _model(**options):
    """As much of a MODEL as a choice of attention asks for."""
    model = SimpleNamespace(model_options={"transformer_options": options})
    model.clone = lambda: SimpleNamespace(model_options=copy.deepcopy(model.model_options), **methods)
    methods = {
        "clone": model.clone,
        "remove_wrappers_with_key": lambda kind, key: None,
        "add_wrapper_with_key": lambda kind, key, wrapper: None,
    }
    return model


def _slot(model):
    return model.model_options["transformer_options"].get(SLOT)


def test_attention_is_set_on_a_clone_and_survives_further_clones():
    model = _model()
    patched = with_attention(model, "eager", 0, False)
    assert _slot(model) is None
    assert _slot(patched) is not None
    assert copy.deepcopy(patched.model_options)["transformer_options"][SLOT] is _slot(patched)


def test_a_second_choice_of_attention_replaces_the_first_and_keeps_what_was_there_before():
    def earlier(func, *args, **kwargs):
        return "earlier"

    patched = _model(**{SLOT: earlier})
    for name in ("eager", "sdpa"):
        patched = SimpleNamespace(model_options=with_attention(patched, name, 0, False).model_options)
        options = patched.model_options
        patched.clone = lambda options=options: SimpleNamespace(
            model_options=copy.deepcopy(options),
            remove_wrappers_with_key=lambda *_: None,
            add_wrapper_with_key=lambda *_: None,
        )
    assert _slot(patched).backend == "sdpa"
    assert _slot(patched).earlier is earlier
    q = torch.zeros(1, 4, 8)
    assert _slot(patched)(None, q, q, q, 2, mask=torch.zeros(4, 4)) == "earlier"


def test_an_unknown_backend_is_refused_when_the_node_runs():
    with pytest.raises(UnknownName, match="eagre"):
        with_attention(_model(), "eagre", 0, False)


def _stock(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs):
    """What ComfyUI's kernels do, written plainly."""
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=kwargs.get("scale"))
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("backend", ["auto", "eager", "sdpa", "sdpa-math"])
@pytest.mark.parametrize("slices", [0, 5])
@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("skip_output_reshape", [False, True])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_every_layout_comes_back_as_comfyui_s_own_kernels_give_it(
    backend, slices, skip_reshape, skip_output_reshape, scale
):
    q, k, v = torch.randn(3, 2, 13, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    if skip_reshape:
        q, k, v = (t.unflatten(-1, (3, -1)).transpose(1, 2) for t in (q, k, v))
    layout = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape, "scale": scale}
    override = Override(backend=backend, slice_size=slices, strict=True)
    out = override(_refusing, q, k, v, 3, transformer_options={}, _inside_attn_wrapper=True, **layout)
    wanted = _stock(q, k, v, 3, **layout)
    assert out.shape == wanted.shape
    assert (out - wanted).abs().max() < 1e-6


def _refusing(*args, **kwargs):
    raise AssertionError("the stock kernel was asked")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"mask": torch.zeros(13, 13)}, "mask"),
        ({"attn_precision": torch.float64}, "float64"),
        ({"enable_gqa": True}, "enable_gqa"),
    ],
)
def test_a_call_that_is_none_of_ours_goes_to_the_stock_kernel_and_the_log_says_so_once(given, word, caplog):
    q = torch.randn(1, 13, 24)
    calls = []

    def stock(*args, **kwargs):
        calls.append(kwargs)
        return "stock"

    override = Override(backend="eager", slice_size=0, strict=False)
    with caplog.at_level(logging.WARNING, "dit360"):
        assert [override(stock, q, q, q, 3, **given) for _ in range(3)] == ["stock"] * 3
    assert calls[0].items() >= given.items()
    (record,) = caplog.records
    assert word in record.message


def test_a_kernel_is_chosen_once_for_a_need(monkeypatch):
    from dit360_comfy import native_attention

    asked = []

    class Kernels:
        def choose(self, requested, need):
            asked.append((requested, need.device, need.dtype, need.heads, need.head_dim, need.length))
            (entry,) = default_registry().find("attention", "eager")
            choice = SimpleNamespace(fell_back=False, sentence=lambda: "", address=entry.address, used="eager")
            return choice, entry.offer.load()

    monkeypatch.setattr(native_attention, "kernels_of", lambda device, strict: Kernels())
    override = Override(backend="eager", slice_size=0, strict=False)
    for length in (13, 13, 20, 13):
        q = torch.randn(2, length, 24)
        override(_refusing, q, q, q, 3)
    assert asked == [("eager", "cpu", "fp32", 3, 8, 13), ("eager", "cpu", "fp32", 3, 8, 20)]


def test_a_backend_that_cannot_run_is_replaced_with_a_warning_or_refused_if_strict(caplog):
    # PyTorch's memory-efficient kernel exists for CUDA only.
    q = torch.randn(1, 13, 24)
    with caplog.at_level(logging.WARNING, "dit360"):
        out = Override(backend="sdpa-efficient", slice_size=0, strict=False)(_refusing, q, q, q, 3)
    assert (out - _stock(q, q, q, 3)).abs().max() < 1e-6
    assert "instead of sdpa-efficient, because it needs a CUDA device" in caplog.text
    with pytest.raises(BackendUnavailable, match="CUDA device"):
        Override(backend="sdpa-efficient", slice_size=0, strict=True)(_refusing, q, q, q, 3)


class _Executor:
    """What ComfyUI hands to a wrapper. seen: what the model was given."""

    class_obj = SimpleNamespace(patch_size=2)
    asks = True

    def __call__(self, x, timestep, context, *, control=None, transformer_options, **kwargs):
        self.seen = {"x": x, "control": control, "options": transformer_options, **kwargs}
        ids = transformer_options["patches"]["post_input"][0]
        if self.asks:
            ids({"img_ids": torch.zeros(1, ids.grid.tokens, 3)})
        return x


def _call(padding, x, **kwargs):
    executor = _Executor()
    out = CircularPadding(padding)(executor, x, None, torch.zeros(1, 3, 8), **kwargs)
    return out, executor.seen


def test_a_forward_pass_that_asks_for_no_positions_is_an_error_but_not_a_call_that_a_cache_leaves_out():
    wrapper, executor, x = CircularPadding(1), _Executor(), torch.zeros(1, 1, 2, 8)
    levels = torch.ones(3)

    def call(levels):
        return wrapper(executor, x, None, torch.zeros(1, 3, 8), transformer_options={"sample_sigmas": levels})

    executor.asks = False
    with pytest.raises(InputError, match="replaces the model's forward pass"):
        call(levels)
    executor.asks = True
    call(levels)
    executor.asks = False
    call(levels)
    with pytest.raises(InputError, match="TeaCache"):
        call(torch.ones(3))


def test_attention_that_another_node_replaced_is_told_once_and_a_cache_s_rest_is_not(caplog):
    ours = Override(backend="eager", slice_size=0, strict=False)
    q, levels = torch.randn(1, 4, 24), {"sample_sigmas": torch.ones(3)}

    def asks(*_):
        return ours(_refusing, q, q, q, 3)

    ours.watch(asks, levels)
    ours.watch(lambda *_: None, levels)
    ours.watch(lambda *_: None, levels)
    assert "put DiT360 Attention last" not in caplog.text
    for _ in range(2):
        ours.watch(lambda *_: None, {"sample_sigmas": torch.ones(3)})
    assert caplog.text.count("put DiT360 Attention last") == 1


def _all_kept(outputs):
    """ComfyUI's question since 0.33: every member of an output has this name, or memory that is short drops it."""
    return all(
        _all_kept(output) if isinstance(output, list | tuple) else getattr(output, "is_dynamic", bool)()
        for output in outputs
    )


def test_the_cache_of_results_keeps_pipes_prompts_and_latents():
    from dit360_comfy.conditioning import conditioning_of
    from dit360_comfy.kept import KeptDict
    from dit360_comfy.pipe import Part, Pipe
    from dit360_core.models.embedding import Embedding
    from dit360_core.pipeline.stages import Conditioning

    assert Part(kind="vae", source=None).is_dynamic()
    assert Pipe.is_dynamic(None)
    read = Embedding(tokens=torch.zeros(1, 2, 3), pooled=torch.zeros(1, 4))
    words = conditioning_of(
        Conditioning(prompt="", negative_prompt=None, positive=read, negative=None, max_sequence_length=2)
    )
    assert _all_kept([[words], [KeptDict(samples=read.tokens)]])
    # What other nodes make of it is theirs, as they copy it.
    assert not _all_kept([[[[words[0][0] * 2, words[0][1].copy()]]]])
    assert isinstance(words[0][1], dict)
    assert not _all_kept([[{"samples": read.tokens}]])


def test_the_report_tells_whose_attention_a_model_has():
    def of(slot, *chosen):
        return description_of(
            SimpleNamespace(
                model_options={"transformer_options": {} if slot is None else {SLOT: slot}},
                get_wrappers=lambda kind, key: [one.watch for one in chosen],
            )
        )

    ours = Override(backend="eager", slice_size=0, strict=False)
    assert of(ours, ours) == "DiT360 Attention computes it with eager."
    assert of(Override(backend="sdpa", slice_size=0, strict=False, earlier=_refusing)).endswith(
        "test_native._refusing keeps the calls that dit360's kernels do not take."
    )
    replaced = of(functools.partial(_refusing), ours)
    assert "test_native._refusing computes it, and not DiT360 Attention (eager)" in replaced
    assert replaced.endswith("put DiT360 Attention last.")
    assert of(None, ours).startswith("ComfyUI's own computes it, and not DiT360 Attention")
    assert of(None) == "ComfyUI's own computes it; no DiT360 Attention is among this model's nodes."


def test_the_report_repeats_what_was_told_while_models_ran(monkeypatch):
    monkeypatch.setattr(native_attention, "told_in_runs", {})
    report = DiT360Backends()
    before = report.IS_CHANGED(try_kernels=False)
    ours = Override(backend="eager", slice_size=0, strict=False)
    for _ in range(2):
        ours.watch(lambda *_: None, {"sample_sigmas": torch.ones(3)})
    assert report.IS_CHANGED(try_kernels=False) != before
    told = report.run(try_kernels=False)["result"][0]
    assert told.count("put DiT360 Attention last.") == 1


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_latents_are_wrapped_and_what_comes_out_is_cropped(padding):
    x = torch.arange(8.0).expand(1, 1, 2, 8)
    out, seen = _call(padding, x)
    assert seen["x"][0, 0, 0].tolist() == [i % 8 for i in range(-2 * padding, 8 + 2 * padding)]
    assert torch.equal(out, x)


def test_the_options_of_the_model_stay_as_they_are():
    def other(given):
        return given

    options = {"patches": {"post_input": [other]}, "sample_sigmas": 1}
    _, seen = _call(1, torch.zeros(1, 1, 2, 8), transformer_options=options)
    assert options == {"patches": {"post_input": [other]}, "sample_sigmas": 1}
    assert seen["options"]["patches"]["post_input"][1:] == [other]


@pytest.fixture
def traced():
    """As ComfyUI's TorchCompileModel has it, whose wrappers run in what is compiled; nothing but tracing is tried."""
    yield lambda function, whole: torch.compile(function, backend="eager", fullgraph=whole)
    torch.compiler.reset()


@pytest.mark.parametrize("uxo", [False, True])
@torch.no_grad()
def test_padding_can_be_compiled_with_the_model(traced, uxo):
    def executor(x, timestep, context, *, transformer_options, **kwargs):
        ids = torch.arange(float(x.shape[-1] // 2))[None, :, None].repeat(1, 1, 3)
        ids = transformer_options["patches"]["post_input"][0]({"img_ids": ids})["img_ids"]
        return x + ids[..., 2].repeat_interleave(2, 1)

    executor.class_obj = SimpleNamespace(patch_size=2)
    wrapper, x, context = CircularPadding(1), torch.randn(1, 1, 2, 8), torch.zeros(1, 3, 8)
    given = {"ref_latents": [x], "ref_latents_method": "uxo"} if uxo else {}

    def model(x):
        return wrapper(executor, x, None, context, transformer_options={"sample_sigmas": context}, **given)

    assert torch.equal(traced(model, True)(x), model(x))
    assert torch.equal(model(x), x + torch.arange(4.0).repeat_interleave(2))


@torch.no_grad()
def test_attention_can_be_compiled_with_the_model_and_breaks_the_graph_only_while_it_is_chosen(traced):
    ours = Override(backend="eager", slice_size=5, strict=True)
    q = torch.randn(1, 13, 24)

    def model(q):
        return ours.watch(lambda q, options: ours(_refusing, q, q, q, 3, transformer_options=options), q, {}) + 1

    for whole in (False, True):
        assert torch.allclose(traced(model, whole)(q), _stock(q, q, q, 3) + 1, atol=1e-6)
    assert len(ours._chosen) == 1


@pytest.mark.parametrize(
    ("padding", "shape", "message"),
    [
        (1, (1, 1, 2, 7), "multiple of 2 latent columns"),
        (5, (1, 1, 2, 8), "wider than the picture, which has 4 token columns"),
        (1, (1, 1, 1, 2, 8), "do not wrap"),
    ],
)
def test_latents_that_do_not_wrap_are_refused(padding, shape, message):
    with pytest.raises(InputError, match=message):
        _call(padding, torch.zeros(shape))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": {"input": [torch.zeros(1, 5, 8)]}}, "ControlNet"),
        ({"attention_mask": torch.zeros(1, 9, 9)}, "attention mask"),
        ({"ref_latents": [torch.zeros(1, 1, 2, 2)], "ref_latents_method": "new"}, "placed by 'new'"),
    ],
)
def test_what_cannot_be_padded_with_the_picture_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        _call(1, torch.zeros(1, 1, 2, 8), **given)


def test_a_conditioning_for_a_part_of_the_width_is_refused_and_one_for_some_rows_is_not():
    x = torch.zeros(1, 16, 8, 16)

    def ask(area):
        return refuse_areas(lambda *given: "computed", None, [[{"area": area}], None], x, None, {})

    assert ask((4, 16, 2, 0)) == "computed"
    with pytest.raises(InputError, match="part of the panorama's width"):
        ask((8, 8, 0, 4))


def test_an_autoencoder_of_another_build_is_refused():
    with pytest.raises(InputError, match="Linear, cannot be made seamless"):
        as_diffusers(torch.nn.Linear(1, 1))


# --------------------------------------------------------------------------------------------------- inside a ComfyUI
# The functions from here to in_comfyui run in another process, which has ComfyUI and no pytest: they import what they
# use themselves, and what they return is told as JSON.


def small_flux(**config):
    """A MODEL of ComfyUI with random weights, and its network."""
    import dataclasses

    import comfy.ldm.flux.model
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 32,
        "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
        **config,
    }  # fmt: skip
    if "txt_ids_dims" in {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}:
        config["txt_ids_dims"] = []
    described = comfy.supported_models.Flux({**config, "dtype": torch.float32})
    described.set_inference_dtype(torch.float32, None)
    model = described.get_model({})
    net = model.diffusion_model
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            # Sharp attention, or no difference between positions would be seen.
            parameter.normal_(2.0 if "norm" in name else 0.0, 0.2)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu), net, config


def sample(model, *, cfg=1.0, sampler="euler", width=16, height=8, extra=None, latent=None, denoise=1.0):
    """Three steps of the stock KSampler for a batch of two: the latents, and each call of the model."""
    import nodes
    import torch

    generator = torch.Generator().manual_seed(3)

    def condition(tokens):
        pooled = torch.randn(1, 16, generator=generator)
        text = torch.randn(1, tokens, 32, generator=generator)
        return [[text, {"pooled_output": pooled, "guidance": 2.8, **(extra or {})}]]

    positive, negative = condition(7), condition(7)
    calls = []
    net = model.model.diffusion_model
    hook = net.register_forward_hook(lambda net, a, k, out: calls.append((a, k, out)), with_kwargs=True)
    latent = latent or {"samples": torch.zeros(2, 16, height, width)}
    try:
        with torch.inference_mode():
            (out,) = nodes.common_ksampler(
                model, 5, 3, cfg, sampler, "simple", positive, negative, latent, denoise=denoise
            )
    finally:
        hook.remove()
    return out["samples"], calls


def same_in_diffusers(net, config):
    """The core's engine around a FluxTransformer2DModel with the weights of a network of ComfyUI."""
    import comfy.utils
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from dit360_core.models.flux.architecture import FLUX
    from dit360_core.models.flux.small import small_autoencoder
    from dit360_core.models.residency.residency import Residency
    from dit360_core.plugins.builtin.attention_kernels import eager

    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=config["depth"],
        num_single_layers=config["depth_single_blocks"],
        attention_head_dim=16,
        num_attention_heads=config["num_heads"],
        joint_attention_dim=config["context_in_dim"],
        pooled_projection_dim=config["vec_in_dim"],
        guidance_embeds=True,
        axes_dims_rope=tuple(config["axes_dim"]),
    )
    theirs, ours = net.state_dict(), {}
    wanted = transformer.state_dict()
    for name, place in comfy.utils.flux_to_diffusers(config).items():
        key, part, *change = (place, None) if isinstance(place, str) else place
        # The map is of every kind of FLUX there is.
        if key in theirs and name in wanted:
            tensor = theirs[key] if part is None else theirs[key].narrow(*part)
            ours[name] = change[0](tensor) if change else tensor
    transformer.load_state_dict(ours, strict=True)
    FLUX.networks.attach(transformer, eager, 0)
    pipe = FluxPipeline(
        transformer=transformer, vae=small_autoencoder(), scheduler=None, text_encoder=None, text_encoder_2=None,
        tokenizer=None, tokenizer_2=None,
    )  # fmt: skip
    cpu = torch.device("cpu")
    residency = Residency(architecture=FLUX, device=cpu)
    return FLUX.networks.open(pipe, device=cpu, dtype=torch.float32, residency=residency, config=transformer.config)


def off_from_core(engine, calls, padding, biased=False):
    """How far the recorded calls are from the core's velocity for the same latents, noise level and embeddings.

    At most, in units of the largest velocity.
    """
    import torch
    from dit360_core.models.embedding import Embedding
    from dit360_core.sphere.grid import Grid

    worst = 0.0
    size = max(float(out.abs().max()) for _, _, out in calls)
    with torch.no_grad():
        for positional, named, out in calls:
            x, sigmas = positional
            grid = Grid(x.shape[-2] // 2, x.shape[-1] // 2, padding)
            for i in range(len(x)):
                text = named["context"][i : i + 1]
                velocity = engine.velocity(grid, float(named["guidance"][i]), None, biased=biased)
                embedding = Embedding(tokens=text, pooled=named["y"][i : i + 1])
                v = engine.unpack(velocity(engine.pack(x[i : i + 1]), float(sigmas[i]), embedding), grid.real)
                worst = max(worst, float((v - out[i]).abs().max()))
    return worst / size


def sampling():
    """Both patches against the core, call by call, under the stock KSampler."""
    from dit360_comfy.nodes.native import NODES

    model, net, config = small_flux()
    engine = same_in_diffusers(net, config)
    pad, attention = NODES["DiT360CircularPadding"]().run, NODES["DiT360Attention"]().run
    told = {"off": {}, "finite": {}}
    plain, calls = sample(model)
    told["off"]["unpatched"] = off_from_core(engine, calls, 0)
    for padding in (1, 2, 8):
        out, calls = sample(pad(model, padding)[0])
        told["off"][f"padding {padding}"] = off_from_core(engine, calls, padding)
        told[f"moved by {padding}"] = float((out - plain).abs().max())
    for backend in ("auto", "eager", "sdpa", "sdpa-math", "sdpa-flash"):
        for slices in (0, 16):
            patched = attention(pad(model, 1)[0], backend, slices, True)[0]
            _, calls = sample(patched, cfg=2.0)
            told["off"][f"{backend} {slices}"] = off_from_core(engine, calls, 1)
            told["off"][f"{backend} {slices} as bias"] = off_from_core(engine, calls, 1, biased=True)
            told["calls"] = [len(calls), len(calls[0][0][0])]
    # In the other order, and by other solvers.
    _, calls = sample(pad(attention(model, "eager", 16, True)[0], 1)[0], cfg=2.0)
    told["off"]["attention first"] = off_from_core(engine, calls, 1)
    for sampler in ("euler_ancestral", "dpmpp_2m", "heun", "lcm"):
        out, calls = sample(pad(model, 1)[0], sampler=sampler)
        told["off"][sampler] = off_from_core(engine, calls, 1)
        told["finite"][sampler] = bool(out.isfinite().all())
    again, _ = sample(model)
    told["unpatched as before"] = bool(again.equal(plain))
    return told


def as_bias(grid, text, references):
    """ComfyUI's attention, without padding but with log 2 (or more) on the keys that padding would repeat."""
    import torch

    bias = torch.cat([grid.key_bias(text), torch.zeros(references, dtype=torch.float64)]).float()

    def attend(func, q, k, v, heads, mask=None, **kwargs):
        whole = bias[None] if mask is None else mask + bias
        if whole.ndim == 3:
            whole = whole[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=whole)
        return out.transpose(1, 2).flatten(2)

    return attend


def oracle():
    """What goes into a call of the model besides the picture, against attention with a bias instead of pad columns."""
    import torch
    from dit360_comfy.native_padding import KEY, CircularPadding
    from dit360_core.sphere.grid import Grid

    generator = torch.Generator().manual_seed(4)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    told = {}

    def compare(name, padding=1, rows=4, height=8, references=0, channels=16, tokens=(4, 8), **given):
        _, net, _ = small_flux(in_channels=channels)
        grid = Grid(rows, 8, padding)
        x, context, y = noise(2, channels, height, 16), noise(2, 7, 32), noise(2, 16)
        sigma, guidance = torch.tensor([0.9, 0.4]), torch.tensor([2.8, 1.0])
        outs = []
        for options in (
            {"wrappers": {"diffusion_model": {KEY: [CircularPadding(padding)]}}},
            {"optimized_attention_override": as_bias(grid, 7, references)},
            {},
        ):
            with torch.inference_mode():
                copied = {k: v.clone() if hasattr(v, "clone") else v for k, v in given.items()}
                outs.append(net(x, sigma, context, y=y, guidance=guidance, transformer_options=options, **copied))
        size = outs[1].abs().max()
        off, moved = ((one - outs[1]).abs().max() / size for one in (outs[0], outs[2]))
        told[name] = {"off": float(off), "moved": float(moved)}

    compare("nothing")
    compare("five columns", padding=5)
    compare("odd height", height=7)
    compare("channels beside", channels=32)
    compare("control", control={"input": [noise(2, 32, 32), None], "output": [None, noise(2, 32, 32)]})
    compare("mask", attention_mask=noise(2, 39, 39))
    for method in ("offset", "index", "uxo", None):
        chosen = {} if method is None else {"ref_latents_method": method}
        compare(f"reference {method}", references=12, ref_latents=[noise(2, 16, 4, 6), noise(2, 16, 6, 4)], **chosen)
    return told


def composing():
    """Patches on top of patches, and what is not touched by them."""
    import torch
    from dit360_comfy.native_padding import KEY
    from dit360_comfy.nodes.native import NODES

    model, _, _ = small_flux()
    pad, attention = NODES["DiT360CircularPadding"]().run, NODES["DiT360Attention"]().run
    (one,), (two,) = pad(model, 1), pad(model, 2)
    (replaced,) = pad(one, 2)
    (none,) = pad(replaced, 0)
    plain, padded, wider = (sample(m)[0] for m in (model, one, two))
    told = {
        "zero is the model itself": pad(model, 0)[0] is model,
        "wrappers after two nodes": len(replaced.get_wrappers("diffusion_model", KEY)),
        "second replaces first": bool(sample(replaced)[0].equal(wider)),
        "zero takes it off": bool(sample(none)[0].equal(plain)),
        "first as before": bool(sample(one)[0].equal(padded)),
        "survives a clone": bool(sample(one.clone())[0].equal(padded)),
        "unpatched as before": bool(sample(model)[0].equal(plain)),
        "moved": float((padded - plain).abs().max()),
    }

    seen = []

    class Other:
        def __call__(self, executor, *args, **kwargs):
            seen.append(args[0].shape[-1])
            return executor(*args, **kwargs)

    for order in ("before", "after"):
        seen.clear()
        base = model.clone() if order == "before" else one.clone()
        base.add_wrapper_with_key("diffusion_model", "other", Other())
        told[f"other wrapper {order}"] = bool(sample(pad(base, 1)[0])[0].equal(padded)) and sorted(set(seen))

    mask = torch.rand(1, 39, 39, generator=torch.Generator().manual_seed(0))
    extra = {"attention_mask": mask, "attention_mask_img_shape": (4, 8)}
    masked, _ = sample(one, extra=extra)
    (patched,) = attention(one, "eager", 0, True)
    told["mask goes to the stock kernel"] = bool(sample(patched, extra=extra)[0].equal(masked))
    told["mask has an effect"] = float((masked - padded).abs().max())

    from dit360_comfy import native_attention

    # What another pack sets after ours, and a forward pass of its own that asks neither for positions nor for us.
    (watched,) = attention(model, "eager", 0, True)
    watched.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *a, **k: func(*a, **k)
    sample(watched)
    told["replaced attention is told"] = list(native_attention.told_in_runs)

    def as_teacache():
        net = model.get_model_object("diffusion_model")
        net.forward_orig = lambda img, *_, **__: img
        try:
            sample(one)
        finally:
            del net.forward_orig

    refused = {}
    for name, ask in {
        "no flux": lambda: pad(stranger(), 1),
        "nunchaku": lambda: pad(stranger(type("ComfyFluxWrapper", (torch.nn.Module,), {})()), 1),
        "forward pass of another pack": as_teacache,
        "odd width": lambda: sample(one, width=15),
        "too wide": lambda: sample(pad(model, 9)[0]),
        "area": lambda: sample(one, extra={"area": (8, 8, 0, 4), "strength": 1.0}),
        "strict": lambda: sample(attention(model, "sdpa-efficient", 0, True)[0]),
    }.items():
        try:
            ask()
        except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
            refused[name] = [type(error).__name__, str(error)]
    return {**told, "refused": refused}


def masking():
    """Masks over the meridian under the stock KSampler: of its own nodes, and of ours."""
    import nodes
    import torch
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
    from comfy_extras.nodes_mask import GrowMask
    from dit360_comfy.nodes import NODE_CLASS_MAPPINGS

    ours = {name: NODE_CLASS_MAPPINGS[f"DiT360{name}"]() for name in ("CircularPadding", "VAEEncode", "GrowMask")}
    model, net, config = small_flux()
    engine = same_in_diffusers(net, config)
    (padded,) = ours["CircularPadding"].run(model, 1)
    picture = torch.randn(2, 16, 8, 16, generator=torch.Generator().manual_seed(6))
    hole = torch.zeros(1, 64, 128)
    hole[:, 16:40, :24] = hole[:, 16:40, -24:] = 1
    (given,) = nodes.SetLatentNoiseMask().set_mask({"samples": picture}, hole)
    made = torch.nn.functional.avg_pool2d(hole, 8)[0] == 1
    told = {"kept": {}, "made": {}, "off": {}}

    def ran(name, model, latent, made, **more):
        out, calls = sample(model, latent=latent, **more)
        off = (out - picture).abs().amax(dim=(0, 1))
        told["kept"][name], told["made"][name] = float(off[~made].max()), float(off[made].mean())
        told["off"][name] = off_from_core(engine, calls, 1)
        return out

    for sampler in ("euler", "euler_ancestral", "dpmpp_2m", "heun", "lcm"):
        ran(sampler, padded, given, made, sampler=sampler)
    ran("some of the way", padded, given, made, denoise=0.5)
    # Ramps: what is kept at all is kept by either way of softening.
    soft = (torch.nn.functional.avg_pool2d(hole, 9, 1, 4) + hole).clamp(max=1)
    (given,) = nodes.SetLatentNoiseMask().set_mask({"samples": picture}, soft)
    for name, way in (("linear", padded), ("differential", DifferentialDiffusion.execute(padded).result[0])):
        ran(name, way, given, torch.nn.functional.max_pool2d(soft, 8)[0] > 0)
    # ComfyUI's own growth ends at the picture's edge, and ours goes on.
    edge = torch.zeros(1, 64, 128)
    edge[:, 24:32, :8] = 1
    new = hasattr(GrowMask, "execute")  # from 0.4 on or so
    (stock,) = GrowMask.execute(edge, 16, True).result if new else GrowMask().expand_mask(edge, 16, True)
    (mine,) = ours["GrowMask"].run(edge, 45.0, 0.0, False)
    told["grown over the edge"] = [bool(grown[0, 28, -8:].any()) for grown in (stock, mine)]
    vae, _ = small_vae(True)
    with torch.inference_mode():
        (latent,) = ours["VAEEncode"].run(torch.rand(1, 64, 128, 3), vae, mask=edge, mask_grow=45.0)
    picture = latent["samples"].clone()
    out, _ = sample(padded, latent=latent)
    off, made = (out - picture).abs().amax(dim=(0, 1)), latent["noise_mask"][0, 0] > 0
    told["kept"]["our latents"], told["made"]["our latents"] = float(off[~made].max()), float(off[made].mean())
    told["over the edge"] = made[3, [0, -1]].tolist()
    # A model that is shown the picture and the mask, as FLUX.1-Fill is: both wrap with the noise.
    filling, _, _ = small_flux(in_channels=96)
    (filling,) = ours["CircularPadding"].run(filling, 1)
    words = {"concat_latent_image": picture, "concat_mask": edge[:, None]}
    out, calls = sample(filling, latent={**latent, "noise_mask": edge[:, None]}, extra=words)
    told["channels"] = int(calls[0][0][0].shape[1])
    kept = torch.nn.functional.max_pool2d(edge, 8)[0] == 0
    told["kept"]["a model that fills"] = float((out - picture).abs().amax(dim=(0, 1))[kept].max())
    return told


def stranger(net=None):
    """A MODEL of another kind."""
    import comfy.model_patcher
    import torch

    model = torch.nn.Module()
    model.diffusion_model = torch.nn.Linear(1, 1) if net is None else net
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def small_vae(flux):
    """A VAE of ComfyUI with the weights of an AutoencoderKL of diffusers, and that. flux: without quant_conv."""
    import comfy.diffusers_convert
    import comfy.model_patcher
    import comfy.sd
    import torch
    from comfy.ldm.models.autoencoder import AutoencodingEngine
    from dit360_core.models.flux.small import small_autoencoder

    kl = small_autoencoder(
        block_out_channels=(32, 32, 64, 64), layers_per_block=2, norm_num_groups=32,
        use_quant_conv=not flux, use_post_quant_conv=not flux,
    )  # fmt: skip
    ours = {name: tensor.clone() for name, tensor in kl.state_dict().items()}
    state = comfy.diffusers_convert.convert_vae_state_dict(dict(ours))
    shape = {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    vae = comfy.sd.VAE(sd=dict(state), config={"params": {"ddconfig": shape, "embed_dim": 16}}, dtype=torch.float32)
    if flux:
        parts = "comfy.ldm.modules.diffusionmodules.model."
        vae.first_stage_model = AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": parts + "Encoder", "params": shape},
            decoder_config={"target": parts + "Decoder", "params": shape},
        ).eval()
        vae.first_stage_model.load_state_dict(state, strict=True)
        vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, torch.device("cpu"))
    return vae, kl


def decoding():
    """The seamless decode and encode, with ComfyUI's own memory management, against the core's and ComfyUI's."""
    import comfy.taesd.taesd
    import torch
    from dit360_comfy.native_autoencoders import as_diffusers
    from dit360_comfy.native_vae import encode_seamless
    from dit360_comfy.nodes.native import NODES
    from dit360_core.panorama.metrics import seam_ratio
    from dit360_core.planning.tiling import choose_tiling
    from dit360_core.plugins.offers import TilingSettings
    from dit360_core.plugins.registry import default_registry
    from dit360_core.sphere.vae import decode_whole, encode_whole
    from dit360_core.system.machine import Machine

    decode = NODES["DiT360VAEDecode"]().run
    latents = torch.randn(2, 16, 8, 16, generator=torch.Generator().manual_seed(1))
    told = {}
    for kind in ("flux", "sd"):
        vae, kl = small_vae(kind == "flux")
        before = vae.decode(latents)
        state = {name: tensor.clone() for name, tensor in vae.first_stage_model.state_dict().items()}
        with torch.inference_mode():
            (image,) = decode({"samples": latents}, vae)
            (rolled,) = decode({"samples": latents.roll(5, -1)}, vae)
            back = encode_seamless(vae, image)
        after = vae.decode(latents)
        core = torch.cat([decode_whole(kl, one) for one in latents.split(1)])
        core = (core / 2 + 0.5).clamp(0, 1).movedim(1, -1)

        # ComfyUI's own modules, with convolutions that wrap.
        wrapping = [m for m in vae.first_stage_model.modules() if isinstance(m, torch.nn.Conv2d) and any(m.padding)]
        for conv in wrapping:

            def forward(x, w, b, conv=conv):
                x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
                return torch.nn.functional.conv2d(x, w, b, conv.stride, (1, 0))

            conv._conv_forward = forward
        theirs = vae.decode(latents)
        for conv in wrapping:
            del conv._conv_forward

        machine = Machine(device="cpu")
        tiled = {}
        for level in ("stored", "mixed", "recomputed"):
            settings = TilingSettings(mode="always", level=level, tile_size=64)
            mine = as_diffusers(vae.first_stage_model)
            _, tiling = choose_tiling(
                "exact", settings, 128, 64, registry=default_registry(), machine=machine, precision="fp32", vae=mine
            )
            pixels = tiling.decode(mine, latents) / 2 + 0.5
            tiled[level] = float((pixels.clamp(0, 1).movedim(1, -1) - image).abs().max())
        edge = (before - image).abs().amax(dim=(0, 1, 3))
        told[kind] = {
            "shape": list(image.shape),
            "range": [float(image.min()), float(image.max())],
            "yaw": float((rolled.roll(-40, 2) - image).abs().max()),
            "core": float((core - image).abs().max()),
            "comfyui's modules, wrapping": float((theirs - image).abs().max()),
            "tiled": tiled,
            "encode": float((encode_whole(kl, image.movedim(-1, 1) * 2 - 1) - back).abs().max()),
            "stock differs at the edge": float(edge[0]),
            "stock as before": bool(after.equal(before)),
            "weights as before": all(t.equal(state[n]) for n, t in vae.first_stage_model.state_dict().items()),
            "shared": mine.decoder.conv_in.weight.data_ptr() == vae.first_stage_model.decoder.conv_in.weight.data_ptr(),
        }

    # A sky without detail, in which a seam shows.
    away = torch.exp(-((torch.fft.fftfreq(32)[:, None] * 20) ** 2) - (torch.fft.rfftfreq(64)[None] * 20) ** 2)
    noise = torch.randn(1, 16, 32, 64, generator=torch.Generator().manual_seed(2))
    smooth = 2 * torch.fft.irfft2(torch.fft.rfft2(noise) * away)
    vae, _ = small_vae(True)
    with torch.inference_mode():
        seams = {"ours": decode({"samples": smooth}, vae)[0], "stock": vae.decode(smooth)}

    class Film:
        first_stage_model, latent_dim = torch.nn.Linear(1, 1), 3

        def throw_exception_if_invalid(self):
            pass

    class Small(Film):
        first_stage_model, latent_dim = comfy.taesd.taesd.TAESD(latent_channels=16), 2

    refused = {}
    for name, given, other in (
        ("five axes", latents[:, :, None], vae),
        ("four channels", latents[:, :4], vae),
        ("film", latents, Film()),
        ("taesd", latents, Small()),
    ):
        try:
            decode({"samples": given}, other)
        except Exception as error:  # noqa: BLE001 (which one it is, is what is told)
            refused[name] = [type(error).__name__, str(error)]
    return {**told, "refused": refused, "seams": {k: float(seam_ratio(v[0].numpy())) for k, v in seams.items()}}


def more_than_factors(model, net):
    """How far biases, norms and the last modulation are from what a LoRA with such tensors makes of them."""
    import tempfile
    from pathlib import Path

    import torch
    from dit360_comfy.native_lora import with_lora
    from safetensors.torch import save_file

    norm, swapped = net.double_blocks[0].img_attn.norm.query_norm, net.final_layer.adaLN_modulation[1]
    qkv, generator = net.double_blocks[1].img_attn.qkv, torch.Generator().manual_seed(5)
    (norm_weight,) = norm.parameters()

    def now():  # a patched parameter is another object
        return [t.detach().clone() for t in (*norm.parameters(), qkv.bias, swapped.weight)]

    down, up = torch.randn(4, 32, generator=generator), torch.randn(64, 4, generator=generator)
    added = torch.randn(96, generator=generator)
    before = now()
    file = Path(tempfile.mkdtemp()) / "lora.safetensors"
    save_file(
        {
            "lora_unet_double_blocks_0_img_attn_norm_query_norm.diff": torch.full_like(norm_weight, 0.25),
            "diffusion_model.double_blocks.1.img_attn.qkv.diff_b": added,
            "lora_unet_final_layer_adaLN_modulation_1.lora_down.weight": down,
            "lora_unet_final_layer_adaLN_modulation_1.lora_up.weight": up,
            "lora_unet_final_layer_adaLN_modulation_1.alpha": torch.tensor(8.0),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 8),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(8, 4),
        },
        file,
    )
    patched = with_lora(model, str(file), 0.5)
    patched.patch_model()
    made = now()
    patched.unpatch_model()
    wanted = (0.125, 0.5 * added, 0.5 * 8 / 4 * up @ down)
    return {
        name: float((m - b - w).abs().max())
        for name, m, b, w in zip(("norm", "biases", "swapped"), made, before, wanted, strict=True)
    }


def loras():
    """How far weights of a patched model are from those that a LoRA makes of them, for each way to name its layers."""
    import json
    import tempfile
    from pathlib import Path

    import torch
    from dit360_comfy.native_lora import with_lora
    from dit360_core.errors import Dit360Error
    from safetensors.torch import save_file

    model, net, _ = small_flux()
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(2, 4, 32, generator=generator), torch.randn(2, 32, 4, generator=generator)
    # The second part of the image's qkv, and the first of a single block's linear1.
    layers = ("transformer_blocks.1.attn.to_k", "single_transformer_blocks.0.attn.to_q")

    def weights():
        return [
            net.double_blocks[1].img_attn.qkv.weight[32:64].clone(),
            net.single_blocks[0].linear1.weight[:32].clone(),
        ]

    before, told = weights(), {}
    heads = {"peft": "base_model.model.", "diffusers": "transformer.", "plain": "", "comfy": "diffusion_model."}
    for style, alpha in (("peft", 8), ("peft", 4), ("diffusers", None), ("plain", None), ("comfy", None)):
        folder = Path(tempfile.mkdtemp())
        file = folder / "adapter_model.safetensors"
        save_file(
            {
                f"{heads[style]}{layer}.lora_{kind}.weight": factor[i].contiguous()
                for i, layer in enumerate(layers)
                for kind, factor in (("A", down), ("B", up))
            },
            file,
        )
        if alpha is not None:
            (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        patched = with_lora(model, str(file), 0.5)
        patched.patch_model()
        made = weights()
        patched.unpatch_model()
        scale = 0.5 * (alpha or 4) / 4
        off = [float((m - b - scale * u @ d).abs().max()) for m, b, u, d in zip(made, before, up, down, strict=True)]
        told[f"{style}, alpha {alpha}"] = max(off)
    told |= more_than_factors(model, net)
    told["as before"] = all(torch.equal(a, b) for a, b in zip(weights(), before, strict=True))
    save_file({"transformer.blocks.0.lora_A.weight": down[0].contiguous()}, folder / "other.safetensors")
    try:
        with_lora(model, str(folder / "other.safetensors"), 1.0)
    except Dit360Error as error:
        told["refused"] = str(error)
    return told


def compiling():
    """How far a compiled model with our patches is from the same one uncompiled, and how many frames dynamo traced."""
    import torch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from dit360_comfy.nodes.native import NODES

    # As its TorchCompileModel has it, which filtered nothing at first.
    try:
        from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

        options = {"guard_filter_fn": skip_torch_compile_dict}
    except ImportError:
        options = None
    model, _, _ = small_flux()
    pad, attention = NODES["DiT360CircularPadding"]().run, NODES["DiT360Attention"]().run
    told = {}

    def patch(given):
        return pad(attention(given, "auto", 16, False)[0], 2)[0]

    expected, _ = sample(patch(model))
    for order in ("before", "after"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = (model if order == "before" else patch(model)).clone()
        # Without waiting for a C++ compiler.
        set_torch_compile_wrapper(compiled, backend="eager", options=options)
        made, _ = sample(patch(compiled) if order == "before" else compiled)
        frames = torch._dynamo.utils.counters["frames"]["ok"]
        told[f"compiled {order}"] = {"off": float((made - expected).abs().max()), "frames": frames}
    return told


def pressing():
    """Which results ComfyUI's cache drops where memory is short; None where it has no such cache."""
    try:
        from comfy_execution.caching import all_outputs_dynamic
    except ImportError:
        return None
    import dit360_comfy.nodes
    import torch

    nodes, told = dit360_comfy.nodes.NODE_CLASS_MAPPINGS, {}
    with torch.inference_mode():
        loader = nodes["DiT360Loader"]()
        pipe = loader.execute(model_path="tiny", precision="auto", vae_path="", t5_path="", offload_to_cpu=True)
        words = nodes["DiT360TextEncode"]().execute(
            dit360_pipe=pipe[0], prompt="a meadow", negative_prompt="fog", max_length=0
        )
        made = nodes["DiT360Sampler"]().execute(
            dit360_pipe=pipe[0], conditioning=words[0], width=128, height=64, steps=1, cfg_scale=-1.0, seed=5,
            circular_padding=-1,
        )["result"]  # fmt: skip
        parts = nodes["DiT360PipeBreakout"]().execute(dit360_pipe=pipe[0])
    for name, outputs in {"pipe": pipe, "words": words, "latents": made, "parts": parts}.items():
        told[name] = all_outputs_dynamic([[output] for output in outputs])
    return told


_INSIDE = (small_flux, sample, same_in_diffusers, off_from_core, sampling, as_bias, oracle, composing, stranger,
           masking, small_vae, decoding, more_than_factors, loras, compiling, pressing)  # fmt: skip


in_comfyui = functools.partial(run_inside, helpers=_INSIDE)
"""What a function above returns in a process of ComfyUI's."""


@pytest.mark.comfyui
def test_under_the_stock_sampler_every_call_of_the_model_is_the_core_s():
    told = in_comfyui(sampling)
    assert max(told["off"].values()) <= 1e-5, told
    assert told["calls"] == [3, 4]  # both conditionings of a batch of two, in one call a step
    assert min(told["moved by 1"], told["moved by 2"], told["moved by 8"]) > 1e-2
    assert all(told["finite"].values())
    assert told["unpatched as before"]


@pytest.mark.comfyui
def test_what_goes_beside_the_picture_is_padded_with_it_or_left_alone():
    told = in_comfyui(oracle)
    assert max(case["off"] for case in told.values()) <= 1e-5, told
    assert min(case["moved"] for case in told.values()) > 1e-3, told


@pytest.mark.comfyui
def test_masks_over_the_meridian_hold_exactly_under_the_stock_sampler():
    told = in_comfyui(masking)
    assert max(told["kept"].values()) <= 1e-6, told
    assert min(told["made"].values()) > 1e-3, told
    assert max(told["off"].values()) <= 1e-5, told
    assert told["grown over the edge"] == [False, True]
    assert told["over the edge"] == [True, True]
    assert told["channels"] == 96


@pytest.mark.comfyui
def test_patches_compose_and_the_model_they_came_from_stays_as_it_was():
    told = in_comfyui(composing)
    refused = told.pop("refused")
    assert told.pop("moved") > 1e-2
    assert told.pop("mask has an effect") > 1e-3
    assert told.pop("wrappers after two nodes") == 1
    # A wrapper that was there before sees the picture as it is; one that comes later sees it padded.
    assert told.pop("other wrapper before") == [16]
    assert told.pop("other wrapper after") == [16]
    assert sum("put DiT360 Attention last" in warned for warned in told.pop("replaced attention is told")) == 1
    assert all(told.values()), told
    kinds = {name: kind for name, (kind, _) in refused.items()}
    assert kinds == {
        "no flux": "InputError",
        "nunchaku": "InputError",
        "forward pass of another pack": "InputError",
        "odd width": "InputError",
        "too wide": "InputError",
        "area": "InputError",
        "strict": "BackendUnavailable",
    }
    assert "Linear is none of the models" in refused["no flux"][1]
    assert "nunchaku's FLUX computes positions in kernels of its own" in refused["nunchaku"][1]
    assert "(as TeaCache does)" in refused["forward pass of another pack"][1]


@pytest.mark.comfyui
def test_a_lora_is_applied_whatever_its_layers_are_called_and_never_none_of_it():
    told = in_comfyui(loras)
    refused = told.pop("refused")
    assert "other.safetensors holds no LoRA for FLUX.1: none of its 1 tensors" in refused
    assert told.pop("as before") is True
    assert max(told.values()) <= 1e-5, told
    assert len(told) == 8


@pytest.mark.comfyui
def test_the_decode_wraps_exactly_and_leaves_the_vae_as_it_was():
    told = in_comfyui(decoding)
    refused, seams = told.pop("refused"), told.pop("seams")
    assert 0.8 < seams["ours"] < 1.25 < seams["stock"]
    for kind in told.values():
        assert kind["shape"] == [2, 64, 128, 3]
        assert 0 <= kind["range"][0] < kind["range"][1] <= 1
        for name in ("yaw", "core", "comfyui's modules, wrapping", "encode"):
            assert kind[name] <= 1e-5, (name, kind)
        assert max(kind["tiled"].values()) <= 1e-5
        assert kind["stock differs at the edge"] > 1e-3
        assert all(kind[name] for name in ("stock as before", "weights as before", "shared")), kind
    assert {kind for kind, _ in refused.values()} == {"InputError"}
    assert set(refused) == {"five axes", "four channels", "film", "taesd"}


@pytest.mark.comfyui
def test_a_compiled_model_with_our_nodes_computes_the_same():
    told = in_comfyui(compiling)
    assert set(told) == {"compiled before", "compiled after"}
    for order in told.values():
        assert order["off"] <= 1e-4, told
        assert order["frames"] > 0, told


@pytest.mark.comfyui
def test_memory_that_is_short_drops_nothing_that_takes_weights_or_steps_to_make_again():
    told = in_comfyui(pressing)
    if told is None:
        pytest.skip("this ComfyUI drops no results where memory is short")
    assert set(told) == {"pipe", "words", "latents", "parts"}
    assert all(told.values()), told


_TINY = """
import torch
from dit360_comfy.nodes.native import NODES

class Tiny:
    CATEGORY, FUNCTION = "tests", "make"
    RETURN_TYPES = ("MODEL", "VAE", "CONDITIONING", "LATENT")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        with torch.inference_mode(False):
            text = [[torch.randn(1, 7, 32), {"pooled_output": torch.randn(1, 16), "guidance": 2.8}]]
            return small_flux()[0], small_vae(True)[0], text, {"samples": torch.zeros(2, 16, 8, 16)}

NODE_CLASS_MAPPINGS = {"Tiny": Tiny, **NODES}
"""


@pytest.mark.comfyui
def test_in_a_running_server_the_nodes_work_with_stock_ones_and_tell_their_errors(tmp_path):
    comfyui_dir()
    pack = tmp_path / "custom_nodes" / "tiny"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text("\n".join(inspect.getsource(f) for f in (small_flux, small_vae)) + _TINY)

    def graph(padding, backend="eager"):
        chosen = {"attention_backend": backend, "attention_slice_size": 16, "strict": True}
        numbers = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        ends = {"positive": ["tiny", 2], "negative": ["tiny", 2], "latent_image": ["tiny", 3]}
        return {
            "tiny": {"class_type": "Tiny", "inputs": {}},
            "attention": {"class_type": "DiT360Attention", "inputs": {"model": ["tiny", 0], **chosen}},
            "pad": {
                "class_type": "DiT360CircularPadding",
                "inputs": {"model": ["attention", 0], "circular_padding": padding},
            },
            "sample": {"class_type": "KSampler", "inputs": {"model": ["pad", 0], **numbers, **ends}},
            "decode": {"class_type": "DiT360VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["tiny", 1]}},
            "encode": {"class_type": "DiT360VAEEncode", "inputs": {"pixels": ["decode", 0], "vae": ["tiny", 1]}},
            "again": {"class_type": "DiT360VAEDecode", "inputs": {"samples": ["encode", 0], "vae": ["tiny", 1]}},
            "save": {"class_type": "SaveImage", "inputs": {"images": ["again", 0], "filename_prefix": "native"}},
        }

    with Server(tmp_path) as server:
        assert "(IMPORT FAILED)" not in server.log()  # which it says of custom nodes
        told = server.get("/object_info/DiT360CircularPadding").body["DiT360CircularPadding"]
        assert told["input"]["required"]["circular_padding"][1]["tooltip"]
        entry = server.run(graph(1))
        assert [error["exception_message"] for error in errors(entry)] == []
        images = entry["outputs"]["save"]["images"]
        assert len(images) == 2
        assert all(server.view(image).startswith(b"\x89PNG") for image in images)
        (error,) = errors(server.run(graph(20)))
        assert "circular_padding=20 is wider than the picture" in error["exception_message"]
        (error,) = errors(server.run(graph(1, "sdpa-efficient")))
        assert "needs a CUDA device" in error["exception_message"]
