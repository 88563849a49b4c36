"""The contract of an attention backend, as tests that a plugin's author inherits."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Iterable, Iterator

import attrs
import torch

from dit360_core.errors import Reason
from dit360_core.planning.probe import Trials, closeness, refusals, trial_call
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import Attend, AttentionBackend, AttentionNeed
from dit360_core.plugins.slicing import sliced
from dit360_core.system.machine import Machine
from dit360_core.testing.offering import MACHINES, OfferConformance
from dit360_core.testing.saying import same, shaped, within
from dit360_core.testing.storage import PeakStorage


class AttentionConformance(OfferConformance):
    """Inherit, name the plugin's module and its offer, and let pytest run it::

        class TestMine(AttentionConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_attention_backends()))

    What this machine cannot run is left out need by need: a refusal with a reason is a right answer, a wrong number is
    not.
    """

    kind = AttentionBackend

    def machine(self) -> Machine:
        """Where it is tried."""
        return Machine.detect()

    def needs(self) -> Iterable[AttentionNeed]:
        """FLUX's own, and around it every dtype, several head sizes, two pictures at once, with and without a bias.

        Every pair of these is among them, and of FLUX's own every one that is painted with.
        """
        device = self.machine().device
        for dtype, key_bias in (("fp32", False), ("bf16", False), ("bf16", True), ("fp16", True)):
            # A CPU computes one head after the other: once is enough for the number of them.
            heads = 3 if device == "cpu" and dtype != "fp32" else 24
            yield AttentionNeed(device=device, dtype=dtype, heads=heads, head_dim=128, length=8832, key_bias=key_bias)
        for i, dtype in enumerate(("fp32", "bf16", "fp16")):
            for j, head_dim in enumerate((128, 64, 256, 60)):
                for key_bias in (False, True) if head_dim == 128 else ((i + j) % 2 == 0,):
                    yield AttentionNeed(
                        device=device, dtype=dtype, heads=3, head_dim=head_dim, length=700, batch=2, key_bias=key_bias
                    )

    # ------------------------------------------------------------------------------------------------------ tests

    def test_every_refusal_has_a_reason_that_can_be_read(self) -> None:
        machine = self.machine()
        for need in self.needs():
            for reason in judge(self._entry(), machine, need):
                assert reason.code != "offer_failed", reason.sentence
                words = len(reason.sentence.split())
                assert words > 2, f"the reason {reason.sentence!r} has {words} words, and 3 are the least"

    def test_unsupported_answers_for_any_machine_and_allocates_nothing(self) -> None:
        offer = self.offer()
        for machine, need in itertools.product(MACHINES, self.needs()):
            asked = attrs.evolve(need, device=machine.device)
            with PeakStorage() as storage:
                reasons = list(offer.unsupported(machine, asked))
            assert storage.peak == 0, f"unsupported makes tensors of {storage.peak} bytes, and none may be made"
            wrong = [reason for reason in reasons if not (isinstance(reason, Reason) and reason.sentence)]
            assert not wrong, f"unsupported answers {wrong[0]!r:.60} where a Reason with a sentence belongs"

    def test_what_it_supports_is_as_right_as_pytorch(self) -> None:
        for need, attend in self._supported():
            reasons = closeness(attend, need, self._trials(need)).reasons
            assert not reasons, f"{'; '.join(map(str, reasons))} ({need})"

    def test_twice_is_the_same(self) -> None:
        for need, attend in self._supported():
            call = trial_call(need, 300, 300)
            same(call.to(attend), call.to(attend), "the result of the same call again", need)

    def test_inputs_need_not_be_contiguous_and_stay_as_they_are(self) -> None:
        for need, attend in self._supported():
            plain = trial_call(need, 300, 300)
            expected = attrs.evolve(plain, q=plain.q.clone(), k=plain.k.clone(), v=plain.v.clone()).to(attend)
            whole = (plain.q, plain.k, plain.v)
            # Heads before tokens; and parts of one projection, as fused projections give them.
            swapped = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in whole]
            projections = torch.cat([t.flatten(2) for t in whole], dim=2).chunk(3, dim=2)
            fused = [t.view(*t.shape[:2], need.heads, need.head_dim) for t in projections]
            for q, k, v in (swapped, fused, [whole[0], whole[1], fused[2]]):
                made = attrs.evolve(plain, q=q, k=k, v=v).to(attend)
                shaped(made, expected, "the result with other strides", need)
                error = float((made.float() - expected.float()).abs().max())
                within(error, 16 * torch.finfo(expected.dtype).eps, "the result with other strides", need)
                for name, given, before in zip("qkv", (q, k, v), whole, strict=True):
                    same(given, before, f"{name}, which it is given to read,", need)

    def test_slices_of_the_queries_change_nothing(self) -> None:
        for need, attend in self._supported():
            call = trial_call(need, 301, 301)
            expected = call.to(attend).float()
            for rows in (16, 128, 300):
                error = float((call.to(sliced(attend, rows)).float() - expected).abs().max())
                bound = 1e-6 if need.dtype == "fp32" else 16 * torch.finfo(call.q.dtype).eps
                within(error, bound, f"the result in slices of {rows} queries", need)

    # ------------------------------------------------------------------------------------------------ inner parts

    def _trials(self, need: AttentionNeed) -> Trials:
        return Trials(need)

    def _entry(self) -> Entry:
        return Entry(kind="attention", offer=self.offer(), distribution="mine", version="0")

    def _supported(self) -> Iterator[tuple[AttentionNeed, Attend]]:
        entry, machine, attend, any_ = self._entry(), self.machine(), None, False
        for need in self.needs():
            if not judge(entry, machine, need):
                attend = attend or entry.offer.load()
                if not refusals(attend, machine, need):
                    any_ = True
                    yield need, attend
        if not any_:
            raise unittest.SkipTest(f"it refuses everything on {machine.device}, with reasons")
