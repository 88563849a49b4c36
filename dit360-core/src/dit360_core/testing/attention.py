"""The contract of an attention backend, as tests that a plugin's author inherits."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator

import attrs
import torch

from dit360_core.flux.processor import sliced
from dit360_core.machine import Machine
from dit360_core.offers import PLUGIN_API, Attend, AttentionBackend, AttentionNeed, Reason
from dit360_core.precision import torch_dtype
from dit360_core.probe import probe_attention
from dit360_core.testing.storage import PeakStorage


class AttentionConformance:
    """Inherit, name the plugin's module and its offer, and let pytest run it::

        class TestMine(AttentionConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_attention_backends()))

    heavy: libraries that importing the module must not import. What this machine cannot run is left out need by need: a
    refusal with a reason is a right answer, a wrong number is not.
    """

    module: str = ""
    heavy: tuple[str, ...] = ("torch", "numpy", "diffusers", "transformers")

    def offer(self) -> AttentionBackend:
        """The offer under test."""
        raise NotImplementedError

    def machine(self) -> Machine:
        """Where it is tried."""
        return Machine.detect()

    def needs(self) -> Iterable[AttentionNeed]:
        """Every dtype, several head sizes, one and two pictures, at FLUX's number of heads and fewer."""
        device = self.machine().device
        for dtype, head_dim, (batch, heads) in itertools.product(
            ("fp32", "bf16", "fp16"), (64, 128, 256, 60), ((1, 24), (2, 3))
        ):
            yield AttentionNeed(device=device, dtype=dtype, heads=heads, head_dim=head_dim, length=8832, batch=batch)

    # ------------------------------------------------------------------------------------------------------ tests

    def test_importing_the_plugin_imports_nothing_heavy(self) -> None:
        code = f"import sys, {self.module}; print([name for name in {self.heavy!r} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]", f"it imports {done.stdout.strip()}"

    def test_the_offer_is_frozen_and_of_this_api(self) -> None:
        offer = self.offer()
        assert isinstance(offer, AttentionBackend)
        assert offer.api == PLUGIN_API
        try:
            offer.name = "another"  # type: ignore[misc]
        except attrs.exceptions.FrozenInstanceError:
            return
        raise AssertionError("its name can be changed")

    def test_unsupported_answers_for_any_machine_and_allocates_nothing(self) -> None:
        offer = self.offer()
        machines = (
            Machine(),
            Machine(device="cuda", device_name="old", capability=(6, 1)),
            Machine(device="cuda", device_name="new", capability=(9, 0), fast_bfloat16=True),
            Machine(device="mps"),
        )
        for machine, need in itertools.product(machines, self.needs()):
            asked = attrs.evolve(need, device=machine.device)
            with PeakStorage() as storage:
                reasons = list(offer.unsupported(machine, asked))
            assert storage.peak == 0, "it makes tensors"
            assert all(isinstance(reason, Reason) and reason.sentence for reason in reasons)

    def test_what_it_supports_is_as_right_as_pytorch(self) -> None:
        machine = self.machine()
        for need, attend in self._supported():
            assert not list(probe_attention(attend, machine, need)), need

    def test_twice_is_the_same(self) -> None:
        for need, attend in self._supported():
            q, k, v = _inputs(need, 65)
            first, second = (attend(q, k, v, scale=need.head_dim**-0.5) for _ in range(2))
            assert torch.equal(first, second), need

    def test_inputs_need_not_be_contiguous_and_stay_as_they_are(self) -> None:
        for need, attend in self._supported():
            plain = _inputs(need, 65)
            expected = attend(*(t.clone() for t in plain), scale=need.head_dim**-0.5)
            strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in plain]
            error = (attend(*strided, scale=need.head_dim**-0.5).float() - expected.float()).abs().max()
            assert error <= 16 * torch.finfo(expected.dtype).eps, need
            assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True)), need

    def test_slices_of_the_queries_change_nothing(self) -> None:
        for need, attend in self._supported():
            q, k, v = _inputs(need, 97)
            expected = attend(q, k, v, scale=need.head_dim**-0.5).float()
            for rows in (16, 32, 96):
                error = (sliced(attend, rows)(q, k, v, scale=need.head_dim**-0.5).float() - expected).abs().max()
                bound = 1e-6 if need.dtype == "fp32" else 16 * torch.finfo(q.dtype).eps
                assert error <= bound, (need, rows, float(error))

    # ------------------------------------------------------------------------------------------------ inner parts

    def _supported(self) -> Iterator[tuple[AttentionNeed, Attend]]:
        offer, machine, attend = self.offer(), self.machine(), None
        for need in self.needs():
            if not list(offer.unsupported(machine, need)):
                attend = attend or offer.load()
                yield need, attend


def _inputs(need: AttentionNeed, length: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    shape = (need.batch, length, need.heads, need.head_dim)
    return tuple(torch.randn(shape, generator=generator).to(need.device, torch_dtype(need.dtype)) for _ in range(3))
