"""The core's own kernels under the tests that plugins inherit; and those tests catch kernels that are wrong."""

import functools

import attrs
import pytest
import torch
from dit360_core.errors import Reason
from dit360_core.planning.probe import Trials
from dit360_core.plugins.builtin import attention as builtin
from dit360_core.plugins.builtin.attention_kernels import eager, sdpa
from dit360_core.plugins.offers import AttentionBackend, AttentionNeed
from dit360_core.system.machine import Machine
from dit360_core.testing import AttentionConformance

OFFERS = {offer.name: offer for offer in builtin.dit360_attention_backends()}


@functools.cache
def trials(need):
    """Made and computed once for all kernels."""
    return Trials(need, several=True)


@pytest.fixture(scope="module", autouse=True)
def _given_back():
    yield
    trials.cache_clear()


class Builtin(AttentionConformance):
    module = "dit360_core.plugins.builtin.attention"
    name = ""

    def offer(self):
        return OFFERS[self.name]

    def needs(self):
        # On a CPU, many heads are a loop around one; they are tried with sdpa.
        most = 24 if self.name == "sdpa" or self.machine().device != "cpu" else 3
        return [attrs.evolve(need, heads=min(need.heads, most)) for need in super().needs()]

    def _trials(self, need):
        return trials(need)


class TestSdpa(Builtin):
    name = "sdpa"


class TestFlash(Builtin):
    name = "sdpa-flash"


class TestEfficient(Builtin):
    name = "sdpa-efficient"


class TestCudnn(Builtin):
    name = "sdpa-cudnn"


class TestMath(Builtin):
    name = "sdpa-math"


class TestEager(Builtin):
    name = "eager"


def backend(load, unsupported=lambda machine, need: (), **more):
    return AttentionBackend(name="mine", api=1, load=load, unsupported=unsupported, **more)


def noisy(q, k, v, *, scale):
    return sdpa(q, k, v, scale=scale) * 1.01


def random_numbers(q, k, v, *, scale):
    return torch.randn_like(q)


def overwriting(q, k, v, *, scale):
    out = sdpa(q, k, v, scale=scale)
    v.zero_()
    return out


def by_position(q, k, v, *, scale):
    """Knows where a query stands among those it was given, which slices change."""
    return sdpa(q, k, v, scale=scale) + torch.arange(q.shape[1])[None, :, None, None] * 1e-3


def allocates(machine, need):
    torch.zeros(3)
    return ()


def deaf(q, k, v, *, scale, key_bias=None):
    """Takes a bias and leaves it at that."""
    return sdpa(q, k, v, scale=scale)


UNSUPPORTED = "test_unsupported_answers_for_any_machine_and_allocates_nothing"


@pytest.mark.parametrize(
    ("offer", "test"),
    [
        (backend(lambda: noisy), "test_what_it_supports_is_as_right_as_pytorch"),
        (backend(lambda: deaf, takes_key_bias=True), "test_what_it_supports_is_as_right_as_pytorch"),
        (
            backend(lambda: eager, lambda machine, need: [Reason("device", "No")]),
            "test_every_refusal_has_a_reason_that_can_be_read",
        ),
        (backend(lambda: random_numbers), "test_twice_is_the_same"),
        (backend(lambda: overwriting), "test_inputs_need_not_be_contiguous_and_stay_as_they_are"),
        (backend(lambda: by_position), "test_slices_of_the_queries_change_nothing"),
        (backend(lambda: eager, allocates), UNSUPPORTED),
        (backend(lambda: eager, lambda machine, need: ["no"]), UNSUPPORTED),
    ],
)
def test_a_kernel_that_is_wrong_fails(offer, test):
    class Tried(AttentionConformance):
        def offer(self):
            return offer

        def needs(self):
            for key_bias in (False, True):
                yield AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=64, key_bias=key_bias)

        def machine(self):
            return Machine()

    with pytest.raises(AssertionError):
        getattr(Tried(), test)()


def test_a_plugin_that_imports_torch_at_once_fails(tmp_path, monkeypatch):
    """Whatever torch is, here one that is quick."""

    class Heavy(AttentionConformance):
        module = "hasty"

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").touch()
    (tmp_path / "hasty.py").write_text("import json")
    Heavy().test_importing_the_plugin_imports_nothing_heavy()
    (tmp_path / "hasty.py").write_text("import torch")
    with pytest.raises(AssertionError, match="torch"):
        Heavy().test_importing_the_plugin_imports_nothing_heavy()


def need(dtype="bf16", head_dim=128, device="cuda"):
    return AttentionNeed(device=device, dtype=dtype, heads=24, head_dim=head_dim, length=8832)


@pytest.mark.parametrize(
    ("name", "machine", "asked", "code"),
    [
        ("sdpa-flash", Machine(device="cuda", capability=(9, 0)), need("fp32"), "dtype"),
        ("sdpa-flash", Machine(device="cuda", capability=(9, 0)), need(head_dim=512), "head_dim"),
        ("sdpa-flash", Machine(device="cuda", capability=(7, 5)), need(), "capability"),
        ("sdpa-flash", Machine(device="mps"), need(device="mps"), "device"),
        ("sdpa-efficient", Machine(), need(device="cpu"), "device"),
        ("sdpa-efficient", Machine(device="cuda", capability=(9, 0)), need("fp64"), "dtype"),
        ("sdpa-cudnn", Machine(device="cuda", capability=(9, 0)), need(head_dim=256), "head_dim"),
        ("sdpa-math", Machine(fast_bfloat16=False), need(device="cpu"), "dtype"),
    ],
)
def test_what_a_kernel_of_pytorch_cannot_do_is_a_reason(name, machine, asked, code):
    assert [reason.code for reason in OFFERS[name].unsupported(machine, asked)] == [code]


@pytest.mark.parametrize("name", list(OFFERS))
def test_on_a_new_gpu_in_bfloat16_all_of_them_can_be_used(name):
    assert not list(OFFERS[name].unsupported(Machine(device="cuda", capability=(9, 0), fast_bfloat16=True), need()))
