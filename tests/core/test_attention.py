"""Our attention processor against diffusers' own; kernels chosen per pipeline and per picture without leaks."""

import threading

import numpy as np
import pytest
import torch
from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, Reason
from dit360_core.models.flux.processor import AttentionProcessor
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.planning.probe import probe_attention
from dit360_core.plugins.builtin.attention_kernels import eager, sdpa, sdpa_flash, sdpa_math
from dit360_core.plugins.choosing import try_out
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import AttentionBackend, AttentionNeed
from dit360_core.plugins.registry import Registry
from dit360_core.plugins.slicing import sliced
from dit360_core.system.machine import Machine
from hypothesis import given, settings
from hypothesis import strategies as st
from invented_plugins import attention, installed, offering
from random_models import random_conditioning, random_flux
from torch.utils._python_dispatch import TorchDispatchMode

SIZE = {"width": 128, "height": 64, "steps": 2, "seed": 1}


def inputs(dtype=torch.float32):
    conditioning = random_conditioning(dtype)
    return {
        "hidden_states": torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(2)).to(dtype),
        "timestep": torch.full((1,), 0.5, dtype=dtype),
        "guidance": torch.full((1,), 3.0),
        "pooled_projections": conditioning.positive.pooled,
        "encoder_hidden_states": conditioning.positive.tokens,
        "txt_ids": torch.zeros(7, 3),
        "img_ids": torch.randint(0, 8, (32, 3)).float(),
        "return_dict": False,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_with_sdpa_we_are_bit_identical_to_diffusers(dtype, fused):
    transformer, given = random_flux(dtype).transformer, inputs(dtype)
    if fused:
        transformer.fuse_qkv_projections()
    stock = transformer(**given)[0]
    transformer.set_attn_processor(AttentionProcessor(sdpa))
    assert torch.equal(transformer(**given)[0], stock)


def with_lora(transformer):
    """A LoRA beside the weights, as diffusers and peft attach one, with an effect."""
    from peft import LoraConfig

    generator = torch.Generator().manual_seed(3)
    transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for name, weight in transformer.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator).to(weight.dtype) * 0.1
    return transformer


@torch.no_grad()
def test_with_a_lora_attached_we_are_bit_identical_to_diffusers():
    plain, given = random_flux().transformer, inputs()
    without = plain(**given)[0]
    transformer = with_lora(plain)
    stock = transformer(**given)[0]
    assert not torch.allclose(stock, without, atol=1e-3)
    transformer.set_attn_processor(AttentionProcessor(sdpa))
    assert torch.equal(transformer(**given)[0], stock)


def one_block_of_each_kind():
    """The least that a compiler finds everything in; it takes a second for each block."""
    transformer = random_flux().transformer
    transformer.single_transformer_blocks = transformer.single_transformer_blocks[:1]
    return transformer


@pytest.mark.long
@pytest.mark.parametrize("change", [with_lora, lambda t: t.fuse_qkv_projections() or t], ids=["lora", "fused"])
@torch.no_grad()
def test_compiled_in_one_piece_we_are_bit_identical_to_diffusers(change):
    """aot_eager traces and functionalizes as every backend of torch.compile does, and leaves the kernels alone."""
    given, results = inputs(), []
    for ours in (False, True):
        torch.compiler.reset()
        transformer = change(one_block_of_each_kind())
        if ours:
            transformer.set_attn_processor(AttentionProcessor(sdpa))
        results.append(torch.compile(transformer, backend="aot_eager", fullgraph=True)(**given)[0])
    torch.compiler.reset()
    assert torch.equal(*results)


@pytest.mark.parametrize("biased", [False, True])
def test_the_reference_is_the_formula_and_has_its_gradient(biased):
    """In place or not, whether gradients are asked for."""
    q, k, v = (torch.randn(2, 9, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(9, dtype=torch.float64) if biased else torch.zeros(9, dtype=torch.float64)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.7 + bias
    formula = torch.einsum("bhqk,bkhd->bqhd", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    given = {"key_bias": bias} if biased else {}
    ours = eager(q, k, v, scale=0.7, **given)
    assert torch.allclose(ours, formula, atol=1e-12)
    for mine, its in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (ours, formula)), strict=True):
        assert torch.allclose(mine, its, atol=1e-10)
    with torch.no_grad():
        assert torch.allclose(eager(q, k, v, scale=0.7, **given), formula, atol=1e-12)


@pytest.mark.parametrize("kernel", [eager, sdpa_math, sliced(sdpa, 16)])
@torch.no_grad()
def test_every_kernel_compiles_in_one_piece(kernel):
    """As far as a kernel reaches: the attention of a double block and of a single one."""
    transformer, given = random_flux().transformer, inputs()
    transformer.set_attn_processor(AttentionProcessor(kernel))
    image, text = torch.randn(1, 32, 32), torch.randn(1, 7, 32)
    turned = transformer.pos_embed(torch.cat([given["txt_ids"], given["img_ids"]]))
    double, single = transformer.transformer_blocks[0].attn, transformer.single_transformer_blocks[0].attn
    torch.compiler.reset()
    for attention_, states in (
        (double, {"hidden_states": image, "encoder_hidden_states": text}),
        (single, {"hidden_states": torch.cat([text, image], dim=1)}),
    ):
        compiled = torch.compile(attention_, backend="aot_eager", fullgraph=True)
        made, plain = (run(**states, image_rotary_emb=turned) for run in (compiled, attention_))
        for one, other in zip(*((x,) if torch.is_tensor(x) else x for x in (made, plain)), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    torch.compiler.reset()


@torch.no_grad()
def test_a_kernel_can_travel_with_one_call():
    transformer, given, calls = random_flux().transformer, inputs(), []

    def counting(q, k, v, *, scale):
        calls.append(q.shape)
        return eager(q, k, v, scale=scale)

    transformer.set_attn_processor(AttentionProcessor(sdpa))
    plain = transformer(**given)[0]
    override = transformer(**given, joint_attention_kwargs={"attend": counting})[0]
    assert len(calls) == 3  # one double block, two single ones
    assert torch.allclose(plain, override, atol=1e-5)
    transformer(**given)
    assert len(calls) == 3


def test_context_parallelism_is_refused_rather_than_wrong():
    transformer, given = random_flux().transformer, inputs()
    processor = AttentionProcessor(sdpa)
    processor._parallel_config = object()
    transformer.set_attn_processor(processor)
    with pytest.raises(Dit360Error, match="Context parallelism"):
        transformer(**given)


def test_context_parallelism_that_was_on_before_is_refused_too():
    """diffusers sets it on the processors that are there, which ours take the place of."""
    pipe = random_flux()
    for processor in pipe.transformer.attn_processors.values():
        processor._parallel_config = object()
    with pytest.raises(InputError, match="Context parallelism is switched on"):
        Pipeline.from_diffusers(pipe)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 220), st.booleans(), st.sampled_from([eager, sdpa, sdpa_flash, sdpa_math]))
def test_slices_change_nothing(length, rows, biased, kernel):
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, length, 2, 8, generator=generator) for _ in range(3))
    bias = {"key_bias": torch.randn(length, generator=generator)} if biased else {}
    whole = kernel(q, k, v, scale=8**-0.5, **bias)
    assert (sliced(kernel, rows)(q, k, v, scale=8**-0.5, **bias) - whole).abs().max() <= 1e-6


def test_a_slice_never_has_more_rows_than_asked():
    seen = []

    def watching(q, k, v, *, scale):
        seen.append(q.shape[1])
        return sdpa(q, k, v, scale=scale)

    q = torch.randn(1, 100, 2, 8)
    sliced(watching, 30)(q, q, q, scale=1.0)
    assert seen == [30, 30, 30, 10]


@pytest.mark.parametrize("kernel", [eager, sdpa])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp64"])
def test_the_built_in_kernels_pass_their_trial(kernel, dtype):
    need = AttentionNeed(device="cpu", dtype=dtype, heads=3, head_dim=32, length=500)
    assert not list(probe_attention(kernel, Machine(), need))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q, k, v, *, scale: sdpa(q, k, v, scale=2 * scale),
        lambda q, k, v, *, scale: torch.full_like(q, float("nan")),
        lambda q, k, v, *, scale: q[:, :1],
        lambda q, k, v, *, scale: None,
        lambda q, k, v, *, scale: sdpa(q + 0 * k, k, v, scale=scale),
    ],
    ids=["scale", "nan", "shape", "nothing", "equal lengths only"],
)
def test_a_wrong_kernel_fails_its_trial(wrong):
    need = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=500)
    offer = AttentionBackend(name="wrong", api=1, load=lambda: wrong)
    entry = Entry(kind="attention", offer=offer, distribution="somebody", version="1")
    _, reasons = try_out(entry, Machine(), need, lambda offer: offer.load(), probe_attention)
    assert [reason.code for reason in reasons] == ["probe_failed"]


class Refusing:
    """Computes attention, and answers what it is told to when it is asked what it cannot do."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, q, k, v, *, scale):
        return sdpa(q, k, v, scale=scale)

    def refuses(self, machine, need):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ([Reason("dtype", "not in this one")], "dtype", "not in this one"),
        ((reason for reason in [Reason("dtype", "not in this one")]), "dtype", "not in this one"),
        ("no", "offer_failed", "it answered 'no' where a Reason belongs"),
        (None, "offer_failed", "'NoneType' object is not iterable"),
        (KeyError("sm_90"), "offer_failed", "asking it raised KeyError: 'sm_90'"),
    ],
    ids=["reasons", "generator", "text", "none", "raises"],
)
def test_what_a_loaded_kernel_has_against_a_need_is_a_reason_whatever_it_answers(answer, code, told):
    registry = Registry(entry_points=installed("kit", offering(attention("mine", lambda: Refusing(answer)))))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="mine")
    assert pipeline.plan.attention.used == "sdpa"
    (reason,) = pipeline.plan.attention.as_dict()["refused"]["kit:mine"]
    assert reason["code"] == code
    assert told in reason["sentence"]


def test_a_kernel_is_loaded_once_for_a_pipeline_and_tried_once_for_a_size():
    """One that keeps something between calls keeps it; the native size is not tried twice."""
    loaded, tried = [], []

    def load():
        loaded.append(1)

        def attend(q, k, v, *, scale):
            tried.append(tuple(q.shape))
            return sdpa(q, k, v, scale=scale)

        return attend

    registry = Registry(entry_points=installed("kit", offering(attention("mine", load, priority=99))))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry)
    before = len(tried)
    for _ in range(2):
        pipeline.sample(random_conditioning(), **SIZE)
    in_pictures = 2 * SIZE["steps"] * 3
    assert len(loaded) == 1
    assert len(tried) - before == in_pictures + 6, "one short trial, the third of its calls in three slices"


def test_a_kernel_that_is_wrong_beyond_its_first_blocks_fails_its_trial():
    def attend(q, k, v, *, scale):
        out = sdpa(q, k, v, scale=scale).clone()
        out[:, 256:] = 0
        return out

    need = AttentionNeed(device="cpu", dtype="bf16", heads=2, head_dim=64, length=8832)
    (reason,) = probe_attention(attend, Machine(), need)
    assert reason.code == "probe_failed"


def test_in_half_precision_nothing_is_no_answer():
    """An allowance that does not shrink with the outputs let a kernel pass that returns zeros for long calls."""
    need = AttentionNeed(device="cpu", dtype="bf16", heads=2, head_dim=64, length=8832)
    kernel = lambda q, k, v, *, scale: sdpa(q, k, v, scale=scale) * (k.shape[1] < 8832)  # noqa: E731
    assert [reason.code for reason in probe_attention(kernel, Machine(), need)] == ["probe_failed"]


def test_where_pytorchs_own_attention_is_broken_it_is_not_the_measure(monkeypatch):
    """And fails itself."""
    wrong = lambda q, k, v, *, scale: sdpa(q, k, v, scale=2 * scale)  # noqa: E731
    monkeypatch.setattr("dit360_core.planning.probe.sdpa", wrong)
    need = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=500)
    assert [reason.code for reason in probe_attention(wrong, Machine(), need)] == ["probe_failed"]
    assert not list(probe_attention(eager, Machine(), need))


def test_memory_that_runs_out_in_a_trial_is_no_defect():
    def attend(q, k, v, *, scale):
        raise MemoryError

    registry = Registry(entry_points=installed("kit", offering(attention("mine", lambda: attend))))
    plan = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="mine").plan
    assert plan.attention.verdicts[0][1] == (Reason("size", "memory ran out in a trial run"),)


def test_an_override_leaves_the_pipeline_as_it_was():
    pipeline = Pipeline.from_diffusers(random_flux(), attention_backend="sdpa")
    conditioning = random_conditioning()
    before = pipeline.sample(conditioning, **SIZE)
    other = pipeline.sample(conditioning, attention_backend="eager", attention_slice_size=16, **SIZE)
    after = pipeline.sample(conditioning, **SIZE)
    assert torch.equal(before.tensor, after.tensor)
    assert other.settings["used"]["attention"]["used"] == "eager"
    assert other.settings["used"]["attention_slice_size"] == 16
    assert after.settings["used"]["attention"]["used"] == "sdpa"
    assert torch.allclose(other.tensor, before.tensor, atol=1e-4)


def test_two_pipelines_with_two_kernels_do_not_affect_each_other_even_in_threads():
    conditioning, results = random_conditioning(), {}
    pipelines = {name: Pipeline.from_diffusers(random_flux(), attention_backend=name) for name in ("eager", "sdpa")}
    alone = {name: p.sample(conditioning, **SIZE).tensor for name, p in pipelines.items()}

    def run(name):
        results[name] = [pipelines[name].sample(conditioning, **SIZE).tensor for _ in range(3)]

    threads = [threading.Thread(target=run, args=(name,)) for name in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tensors in results.items():
        assert all(torch.equal(t, alone[name]) for t in tensors)
    processors = {id(next(iter(p.engine.denoiser.attn_processors.values()))) for p in pipelines.values()}
    assert len(processors) == 2


def test_diffusers_global_attention_backend_is_not_touched():
    from diffusers.models import attention_dispatch

    before = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    Pipeline.from_diffusers(random_flux(), attention_backend="eager").sample(random_conditioning(), **SIZE)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == before


@torch.no_grad()
def test_first_block_cache_of_diffusers_runs_in_our_loop():
    """Our loop opens a cache context, without which diffusers' caches raise."""
    from diffusers.hooks import FirstBlockCacheConfig

    pipeline = Pipeline.from_diffusers(random_flux())
    plain = pipeline.sample(random_conditioning(), **SIZE)
    pipeline.engine.denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert torch.allclose(pipeline.sample(random_conditioning(), **SIZE).tensor, plain.tensor, atol=1e-6)


def test_kernels_of_one_name_are_told_apart_by_their_distribution():
    """Two plugins offer ``same``; the picture asks for the one that was not loaded, and gets it."""
    calls = []

    def counting(name):
        def attend(q, k, v, *, scale):
            calls.append(name)
            return sdpa(q, k, v, scale=scale)

        return attend

    entry_points = [
        point
        for name in ("a", "b")
        for point in installed(name, offering(attention("same", lambda n=name: counting(n))))
    ]
    registry = Registry(entry_points=entry_points)
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="a:same")
    sampled = pipeline.sample(random_conditioning(), attention_backend="b:same", **SIZE)
    assert sampled.settings["used"]["attention"]["distribution"] == "b"
    assert calls[-1] == "b"
    pipeline.sample(random_conditioning(), **SIZE)
    assert calls[-1] == "a"


@pytest.mark.parametrize(
    ("backend", "told"), [("sdpa", True), ("sdpa-flash", True), ("eager", False), ("sdpa-math", False)]
)
def test_slices_that_save_nothing_are_told(backend, told, caplog):
    pipe = Pipeline.from_diffusers(random_flux(), attention_backend=backend, attention_slice_size=16)
    said = f"attention_slice_size=16 saves nothing with {backend}"
    assert any(said in note for note in pipe.plan.notes) is told
    assert (said in caplog.text) is told
    caplog.clear()
    plain = Pipeline.from_diffusers(random_flux(), attention_backend=backend)
    assert not plain.plan.notes
    plain.sample(random_conditioning(), **SIZE, attention_slice_size=16)
    assert (said in caplog.text) is told


def test_a_fall_back_for_one_picture_is_told_once_whatever_the_number_of_pictures(caplog):
    pipeline = Pipeline.from_diffusers(random_flux(), attention_backend="sdpa")
    for _ in range(3):
        sampled = pipeline.sample(random_conditioning(), attention_backend="sdpa-efficient", **SIZE)
        assert sampled.settings["used"]["attention"]["used"] == "sdpa"
        assert sampled.settings["used"]["attention"]["requested"] == "sdpa-efficient"
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["attention: sdpa instead of sdpa-efficient, because it needs a CUDA device, and this runs on cpu"]


def test_a_fall_back_at_loading_is_not_told_again_for_each_picture(caplog):
    pipeline = Pipeline.from_diffusers(random_flux(), attention_backend="sdpa-efficient")
    for _ in range(2):
        pipeline.sample(random_conditioning(), **SIZE)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_picture_with_a_bias_takes_a_kernel_that_takes_one_and_tells_why(caplog):
    plain = attention("plain", lambda: lambda q, k, v, *, scale: sdpa(q, k, v, scale=scale), priority=50)
    registry = Registry(entry_points=installed("kit", offering(plain)))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="plain")
    sampled = pipeline.sample(random_conditioning(), circular_mode="bias", **SIZE)
    assert sampled.settings["used"]["attention"]["used"] == "sdpa"
    assert sampled.settings["used"]["circular_mode"] == "bias"
    assert "instead of plain, because it takes no bias on the keys (use circular_mode=pad)" in caplog.text
    assert pipeline.sample(random_conditioning(), **SIZE).settings["used"]["attention"]["used"] == "plain"
    strict = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="plain", strict=True)
    with pytest.raises(BackendUnavailable, match="takes no bias on the keys"):
        strict.sample(random_conditioning(), circular_mode="bias", **SIZE)


def test_a_bias_without_padding_is_refused():
    with pytest.raises(InputError, match="circular_mode=bias has no effect, because circular_padding is 0"):
        Pipeline.from_diffusers(random_flux()).sample(
            random_conditioning(), circular_mode="bias", circular_padding=0, **SIZE
        )


@pytest.fixture(scope="module")
def whole_picture(tiny):
    def paint(**options):
        return np.asarray(
            tiny.generate("a castle above a meadow at sunset", width=256, seed=7, steps=4, **options).image, float
        )

    return paint, paint(attention_backend="sdpa")


@pytest.mark.parametrize(
    "options",
    [
        {"attention_backend": "eager"},
        {"attention_backend": "sdpa-flash"},
        {"attention_backend": "sdpa-math"},
        {"attention_backend": "eager", "attention_slice_size": 100},
        {"attention_backend": "sdpa", "attention_slice_size": 64},
        {"attention_backend": "sdpa", "circular_mode": "bias"},
        {"attention_backend": "eager", "circular_mode": "bias", "attention_slice_size": 100},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_whole_pictures_of_one_seed_are_the_same_whatever_computes_attention(whole_picture, options):
    paint, expected = whole_picture
    error = np.mean((paint(**options) - expected) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-12)) >= 50


class Watching(TorchDispatchMode):
    """Which kernels PyTorch may choose between in the whole process, at each step of a computation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        return function(*args, **(kwargs or {}))


def test_naming_a_kernel_of_pytorch_leaves_its_choice_in_other_threads_alone():
    """torch.nn.attention.sdpa_kernel would switch kernels for the whole process while it is active."""
    q = torch.randn(1, 64, 2, 16)
    for kernel in (sdpa_flash, sdpa_math):
        with Watching() as watching:
            kernel(q, q, q, scale=0.25)
        assert set(watching.seen) == {(True, True)}


def scales_keys(q, k, v, *, scale):
    k.mul_(scale)
    return sdpa(q, k, v, scale=1.0)


class Remembering:
    """Mixes the result of the call before into its own."""

    last = None

    def __call__(self, q, k, v, *, scale):
        out = sdpa(q, k, v, scale=scale)
        mixed = out if self.last is None or self.last.shape != out.shape else (out + self.last) / 2
        self.last = mixed
        return mixed


class Keeping:
    """Keeps the keys by the memory that they are in."""

    def __init__(self):
        self.keys = {}

    def __call__(self, q, k, v, *, scale):
        return sdpa(q, self.keys.setdefault(k.data_ptr(), k.clone()), v, scale=scale)


def beyond_300(q, k, v, *, scale):
    out = sdpa(q, k, v, scale=scale).clone()
    out[:, 300:] *= 0.9
    return out


def drops_keys(q, k, v, *, scale):
    if q.shape[1] > 320 and k.shape[1] > 320:
        k, v = k[:, :320], v[:, :320]
    return sdpa(q, k, v, scale=scale)


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (scales_keys, "it changes k, which it is given to read"),
        (Remembering(), "after another call"),
        (Keeping(), "after another call"),
        (beyond_300, "at query"),
        (drops_keys, "of 1712"),
    ],
)
def test_a_kernel_that_is_wrong_in_a_pictures_calls_fails_its_trial(kernel, told):
    need = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=1712)
    (reason,) = probe_attention(kernel, Machine(), need)
    assert reason.code == "probe_failed"
    assert told in reason.sentence


def from_call_30(wrong):
    calls = []

    def attend(q, k, v, *, scale):
        calls.append(1)
        out = sdpa(q, k, v, scale=scale)
        return wrong(out) if len(calls) >= 30 else out

    return attend


@pytest.mark.parametrize(
    ("wrong", "slices", "told"),
    [
        (lambda out: 0.9 * out, 0, "passed its trial and was wrong in the picture"),
        (lambda out: out[:, :1], 16, "returned (1, 1, "),
        (lambda out: out[:, :1], 0, "returned (1, 1, "),
    ],
    ids=["numbers", "shape in slices", "shape"],
)
def test_a_kernel_that_goes_wrong_after_its_trial_is_told_and_paints_nothing(wrong, slices, told):
    plugin = offering(attention("late", lambda: from_call_30(wrong), priority=99))
    registry = Registry(entry_points=installed("kit", plugin))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry, attention_backend="late")

    def paint():
        for _ in range(12):
            pipeline.sample(random_conditioning(), attention_slice_size=slices, **SIZE)

    with pytest.raises(Dit360Error, match=r"late \(kit 1.0\)") as raised:
        paint()
    assert told in str(raised.value)
