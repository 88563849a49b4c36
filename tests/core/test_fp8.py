"""Weights in float8: what is stored, and both kernels."""

import dit360_core
import numpy as np
import pytest
import torch
from dit360_core.models.weights.conversion import trial_tokens
from dit360_core.plugins.builtin import fp8
from dit360_core.plugins.builtin import quantization as builtin
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.system.machine import Machine
from dit360_core.testing import QuantizerConformance

E4M3 = torch.float8_e4m3fn
CPU = torch.device("cpu")
needs_scaled_mm = pytest.mark.skipif(
    not fp8.scaled_is_right(CPU), reason="this PyTorch does not multiply float8 with scales for rows on a CPU"
)


class TestFp8(QuantizerConformance):
    module = "dit360_core.plugins.builtin.quantization"

    def offer(self):
        return next(offer for offer in builtin.dit360_quantizers() if offer.name == "fp8")


@needs_scaled_mm
class TestFp8WithTheScaledKernel(TestFp8):
    """What CUDA devices get, computed on a CPU."""

    @pytest.fixture(autouse=True)
    def _kernel(self, monkeypatch):
        monkeypatch.setattr(fp8, "scaled_works", lambda device: True)


def random_linear(inside=256, outside=384, *, dtype=torch.float32, bias=True):
    linear = torch.nn.Linear(inside, outside, bias=bias).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    linear.weight.copy_(torch.randn(outside, inside, generator=generator) * inside**-0.5)
    return linear.to(dtype)


def off(found, right):
    return float((found.double() - right.double()).norm() / right.double().norm())


def scaled(module):
    """The layer of the scaled kernel with the weights of another."""
    return fp8.ScaledFp8Linear(module.weight.data, module.scale, None if module.bias is None else module.bias.data)


# ---------------------------------------------------------------------------------------------------------- weights


def test_weights_are_float8_with_a_scale_for_each_channel():
    linear = random_linear()
    linear.weight[3] *= 1000  # must not cost the others their digits
    state = fp8.Fp8().quantize(linear, one_token=True).state_dict()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} == {
        "weight": (E4M3, (384, 256)),
        "scale": (torch.float32, (384,)),
        "bias": (torch.float32, (384,)),
    }
    assert (state["weight"].float().abs().amax(1) == 448).all()
    errors = (state["weight"].float() * state["scale"][:, None] - linear.weight).norm(dim=1) / linear.weight.norm(dim=1)
    assert errors.max() < 0.04


def test_all_256_numbers_are_turned_back_as_pytorch_does():
    weight = torch.arange(256, dtype=torch.uint8).view(E4M3).view(2, 128)
    scale = torch.tensor([1.0, 0.3])
    right = weight.float() * scale[:, None]
    assert right.isnan().sum() == 2
    assert torch.equal(fp8._turned_back(weight, scale)[~right.isnan()], right[~right.isnan()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", ["zero", "huge", "tiny"])
def test_weights_of_any_size_give_no_nan(dtype, size):
    linear = random_linear(dtype=dtype, bias=False)
    most = torch.finfo(dtype).max
    linear.weight *= {"zero": 0.0, "huge": 0.0, "tiny": 1e-30}[size]
    if size == "huge":
        linear.weight[:, :4] = most
        linear.weight[1, 1] = -most
    x = torch.zeros(3, 256, dtype=dtype)
    x[1:, 0] = torch.tensor([1e-3, -1e-3])
    module = fp8.Fp8().quantize(linear, one_token=True)
    for each in (module, scaled(module)) if fp8.scaled_is_right(CPU) else (module,):
        out = each(x)
        assert out.isfinite().all()
        assert torch.allclose(out, linear(x), rtol=0.1, atol=0)


def test_a_weight_that_is_not_finite_does_not_vanish():
    linear = random_linear()
    linear.weight[5, 5] = float("nan")
    out = fp8.Fp8().quantize(linear, one_token=True)(torch.ones(2, 256))
    assert out[:, 5].isnan().all()
    assert out.isnan().sum() == 2


def test_what_is_no_float8_is_not_restored():
    linear = random_linear()
    state = fp8.Fp8().quantize(linear, one_token=False).state_dict()
    with pytest.raises(ValueError, match=r"weights are \(384, 256\) torch.int8"):
        fp8.Fp8().restore(linear, {**state, "weight": state["weight"].view(torch.int8)}, one_token=False)


def test_weights_do_not_become_another_dtype():
    module = fp8.Fp8().quantize(random_linear(), one_token=False)
    module.to("cpu")
    with pytest.raises(RuntimeError, match="load the model in the precision wanted"):
        torch.nn.Sequential(module).to(torch.bfloat16)


def test_mps_is_told_to_have_no_float8():
    offer = TestFp8().offer()
    (reason,) = offer.unsupported(Machine(device="mps"), QuantizationNeed(device="mps", dtype="bf16"))
    assert (reason.code, reason.hint) == ("dtype", "use int8")


# --------------------------------------------------------------------------------------------------- the scaled kernel


@pytest.mark.parametrize(
    ("sizes", "one_token", "kind"),
    [
        ((256, 384), False, fp8.ScaledFp8Linear),
        ((256, 384), True, fp8.WeightOnlyFp8Linear),
        ((250, 384), False, fp8.WeightOnlyFp8Linear),
        ((256, 380), False, fp8.WeightOnlyFp8Linear),
    ],
)
def test_the_scaled_kernel_takes_many_tokens_and_multiples_of_16(monkeypatch, sizes, one_token, kind):
    asked = []
    monkeypatch.setattr(fp8, "scaled_works", lambda device: asked.append(device) or True)
    assert type(fp8.Fp8().quantize(random_linear(*sizes), one_token=one_token)) is kind
    assert asked == ([CPU] if kind is fp8.ScaledFp8Linear else [])


@pytest.mark.parametrize(("capability", "works"), [((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_the_scaled_kernel_is_tried_from_capability_8_9_on(monkeypatch, capability, works):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fp8, "scaled_is_right", lambda device: True)
    assert fp8.scaled_works(torch.device("cuda:0")) is works
    assert not fp8.scaled_works(CPU)


@pytest.mark.parametrize("fault", [RuntimeError("no kernel"), ValueError("only bf16"), AttributeError("gone")])
def test_a_scaled_kernel_that_fails_is_told(monkeypatch, caplog, fault):
    def failing(*args, **kwargs):
        raise fault

    monkeypatch.setattr(torch, "_scaled_mm", failing)
    with caplog.at_level("INFO", "dit360"):
        assert not fp8.scaled_is_right.__wrapped__(CPU)
    assert f"fp8 computes with weights alone: this PyTorch's scaled kernel failed ({fault})" in caplog.text


@needs_scaled_mm
def test_a_scaled_kernel_that_errs_is_not_used(monkeypatch):
    right = torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", lambda *args, **kwargs: right(*args, **kwargs) * 1.2)
    assert not fp8.scaled_is_right.__wrapped__(CPU)


@needs_scaled_mm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_scaled_kernel_adds_only_the_rounding_of_activations(dtype):
    module = fp8.Fp8().quantize(random_linear(dtype=dtype), one_token=True)
    x = trial_tokens(256, dtype, "cpu")
    right, found = module(x), scaled(module)(x)
    assert found.dtype is dtype
    assert 0.01 < off(found, right) < 0.03
    # Activations that float8 holds, and their scale with them, leave the rounding of the result to bf16.
    exact = (448 * torch.randint(-1, 2, (16, 256), generator=torch.Generator().manual_seed(1))).to(dtype)
    assert off(scaled(module)(exact), module(exact)) < 0.004


@needs_scaled_mm
def test_the_scaled_kernel_takes_tokens_in_pieces_and_one_by_one(monkeypatch):
    """A token a thousand times larger than another must not cost that one its digits."""
    linear = random_linear()
    module = scaled(fp8.Fp8().quantize(linear, one_token=True))
    x = torch.randn(2, 50, 256, generator=torch.Generator().manual_seed(2))
    x[:, ::2] *= 1000
    right = module(x)
    assert ((right - linear(x)).norm(dim=-1) / linear(x).norm(dim=-1)).max() < 0.06
    monkeypatch.setattr(fp8, "_ROWS", 32)
    assert torch.equal(module(x), right)
    assert module(x[:, :0]).shape == (2, 0, 384)


@needs_scaled_mm
def test_the_scaled_kernel_is_given_rows_and_columns(monkeypatch):
    """What CUDA asks for, and a CPU does not: checked as PyTorch does for tensors without numbers."""
    given = []
    right = torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", lambda a, b, **how: given.append((a, b, how)) or right(a, b, **how))
    module = scaled(fp8.Fp8().quantize(random_linear(), one_token=True))
    x = torch.randn(64, 256)
    for tokens in (x, x[:1], x[:, None].transpose(0, 1), x.T.contiguous().T, x[:1].T.contiguous().T):
        module(tokens)
    for a, b, how in given:
        assert a.stride() == (256, 1)
        assert b.stride() == (1, 256)
        assert (a.dtype, b.dtype, how["out_dtype"]) == (E4M3, E4M3, torch.bfloat16)
        assert (how["scale_a"].shape, how["scale_b"].shape) == ((len(a), 1), (1, 384))
        assert all(how[name].is_contiguous() and how[name].dtype is torch.float32 for name in ("scale_a", "scale_b"))


@needs_scaled_mm
def test_the_scaled_kernel_keeps_what_is_not_finite():
    module = scaled(fp8.Fp8().quantize(random_linear(), one_token=True))
    x = torch.ones(4, 256)
    x[1, 5], x[2, 5] = float("nan"), float("inf")
    out = module(x)
    assert out[1:3].isnan().all()
    assert out[[0, 3]].isfinite().all()
    assert module(torch.zeros(2, 256)).isfinite().all()


# ------------------------------------------------------------------------------------------------------ whole models


def test_a_stored_model_paints_the_same_picture(tiny, tmp_path):
    picture = {"prompt": "a calm sea at noon", "seed": 3, "steps": 2, "width": 256}
    dit360_core.quantize("tiny", tmp_path / "model", quantization_mode="fp8")
    quantized, restored, full = (
        pipe.generate(**picture)
        for pipe in (
            dit360_core.load("tiny", quantization_mode="fp8"),
            dit360_core.load(str(tmp_path / "model")),
            tiny,
        )
    )
    assert quantized.image.tobytes() == restored.image.tobytes()
    error = np.square(np.asarray(quantized.image, dtype=float) - np.asarray(full.image, dtype=float)).mean()
    assert 0 < error < 255**2 / 10**2.5


# ------------------------------------------------------------------------------------------------------------- a GPU


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="no CUDA device here that multiplies float8",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(3072, 3072), (3072, 12288), (15360, 3072), (64, 80)])
def test_the_scaled_kernel_on_a_gpu(dtype, sizes):
    linear = random_linear(*sizes, dtype=dtype)
    module = fp8.Fp8().quantize(linear.to("cuda"), one_token=False)
    assert type(module) is fp8.ScaledFp8Linear
    plain = fp8.WeightOnlyFp8Linear(module.weight.data, module.scale, module.bias.data)
    x = trial_tokens(sizes[0], dtype, "cuda")
    for tokens in (x[:1], x, x.repeat(141, 1)[None], x.T.contiguous().T, x[:1].T.contiguous().T):
        found = module(tokens)
        assert (found.dtype, found.shape) == (dtype, (*tokens.shape[:-1], sizes[1]))
        assert off(found, plain(tokens)) < 0.04
    assert torch.equal(module(x), module(x))
