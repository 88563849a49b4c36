"""The xFormers backend against the real library, which imports on a CPU and says itself that it runs on CUDA only."""

import importlib.util

import pytest
from dit360_attn_xformers import dit360_attention_backends
from dit360_core.planning.probe import probe_attention
from dit360_core.plugins.choosing import try_out
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine
from dit360_core.testing import AttentionConformance

(OFFER,) = dit360_attention_backends()

needs_xformers = pytest.mark.skipif(
    importlib.util.find_spec("xformers") is None,
    reason='xFormers is not installed here: pip install "dit360-attn-xformers[xformers]"',
)


def need(device="cuda", dtype="bf16", **more):
    return AttentionNeed(device=device, dtype=dtype, heads=24, head_dim=128, length=8832, **more)


class TestConformance(AttentionConformance):
    module = "dit360_attn_xformers"
    heavy = ("torch", "xformers", "numpy", "diffusers", "transformers")

    def offer(self):
        return OFFER


def test_the_environment_offers_it():
    (entry,) = default_registry().find("attention", "xformers")
    assert entry.address == "dit360-attn-xformers:xformers"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_what_is_no_cuda_device_is_refused_without_importing_xformers(device):
    (reason,) = OFFER.unsupported(Machine(device=device), need(device))
    assert (reason.code, device in reason.sentence) == ("device", True)


def test_on_cuda_the_rest_is_left_to_xformers_to_say():
    for dtype in ("fp32", "bf16", "fp16"):
        assert not list(OFFER.unsupported(Machine(device="cuda", capability=(9, 0)), need(dtype=dtype)))


@pytest.fixture(scope="module")
def kernel():
    return OFFER.load()


@needs_xformers
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_xformers_own_reasons_are_passed_on(kernel, dtype):
    (reason,) = kernel.refuses(Machine(), need("cpu", dtype))
    assert "none of xFormers' operators can do this: device=cpu (supported: {'cuda'})" in reason.sentence
    assert ("dtype=torch.float32" in reason.sentence) is (dtype == "fp32")


@needs_xformers
def test_each_of_its_reasons_is_told_once_with_the_operators_that_gave_it(kernel):
    (reason,) = kernel.refuses(Machine(), need("cpu", key_bias=True))
    assert reason.sentence.count("device=cpu") == 1
    assert "attn_bias type is" in reason.sentence


@needs_xformers
def test_a_trial_of_what_cannot_run_is_a_reason_and_no_exception():
    (entry,) = default_registry().find("attention", "xformers")
    _, reasons = try_out(entry, Machine(), need("cpu"), lambda offer: offer.load(), probe_attention)
    assert "none of xFormers' operators can do this" in reasons[0].sentence


@needs_xformers
def test_its_call_is_the_one_that_xformers_takes(kernel):
    """As far as a CPU gets: the library understands the call and has no operator for it."""
    import torch

    q = torch.randn(1, 16, 2, 8, dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match="No operator found for `memory_efficient_attention_forward`"):
        kernel(q, q, q, scale=0.3, key_bias=torch.zeros(16))
