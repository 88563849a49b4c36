"""Chooses the attention kernel for the shapes of a model, and tries all there are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dit360_core.errors import Sentence, remedy, setting
from dit360_core.models.families import expected, facts_of, shape_folder
from dit360_core.options import LoadOptions
from dit360_core.planning.precision import precision_for
from dit360_core.planning.trial import Verdict, try_apart
from dit360_core.plugins.builtin.models import DIT360
from dit360_core.plugins.choosing import Choice, judge, select
from dit360_core.plugins.entries import CORE, by_priority
from dit360_core.plugins.offers import AttentionBackend, AttentionNeed, Model
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.size import tokens_of
from dit360_core.system.machine import Machine

if TYPE_CHECKING:
    from dit360_core.plugins.offers import Attend


def native_need(
    model: Model, machine: Machine, precision: str, heads: tuple[int, int], text_tokens: int
) -> AttentionNeed:
    """The attention calls of a model's native size.

    precision: of the activations.
    heads: how many, and channels of each.
    text_tokens: of a prompt; the longest possible while none is known.
    """
    length = tokens_of(model.width, model.height, model.circular_padding) + text_tokens
    return AttentionNeed(device=machine.device, dtype=precision, heads=heads[0], head_dim=heads[1], length=length)


TYPICAL = DIT360
"""What is asked about where no model is chosen yet."""


def typical_need(machine: Machine) -> AttentionNeed:
    """What DiT360 itself asks of attention, by the configuration that comes with its name: the largest model here."""
    # Of the core's own family, whatever plugins there are: one of them may be tried by whoever asks.
    core = Registry(entry_points=[])
    family = expected(TYPICAL, core)
    facts = facts_of(shape_folder(TYPICAL, core), core)
    precision = precision_for(LoadOptions(), TYPICAL, machine)
    return native_need(TYPICAL, machine, precision, (facts.heads, facts.head_dim), family.longest_prompt)


def try_kernels(registry: Registry, machine: Machine, *, core: bool = False, timed: bool = False) -> dict[str, Verdict]:
    """``distribution:name`` → verdict on every attention backend of this environment, for what DiT360 needs.

    registry: that of this environment, since another process looks for itself. Plugins that have nothing against this
    machine are tried, in a process of their own.
    core: so are the core's own, which are known to work.
    timed: those that work are timed.
    """
    need = typical_need(machine)
    entries = sorted(registry.entries("attention"), key=by_priority)
    verdicts = {entry.address: Verdict(reasons=judge(entry, machine, need)) for entry in entries}
    ours = {entry.address for entry in entries if entry.distribution == CORE and not core}
    wanted = [address for address, verdict in verdicts.items() if not verdict.reasons and address not in ours]
    return {**verdicts, **(try_apart(wanted, need, timed=timed) if wanted else {})}


def slicing_notes(choice: Choice, registry: Registry, slice_size: int) -> tuple[Sentence, ...]:
    """What there is to say of ``attention_slice_size`` with a kernel: nothing, if slices save memory with it."""
    offer = registry.find("attention", choice.address)[0].offer
    if not slice_size or offer.stores_scores:
        return ()
    return (
        Sentence(
            f"{setting('attention_slice_size', slice_size)} saves nothing with {choice.used}, which never holds all "
            f"scores at once; {remedy('leave_out')}, or use {setting('attention_backend', 'eager')}"
        ),
    )


class Kernels:
    """Kernels of one pipeline: each is loaded once, and tried once for each need."""

    def __init__(self, registry: Registry, machine: Machine, strict: bool) -> None:
        self._registry, self._machine, self._strict = registry, machine, strict
        self._loaded: dict[AttentionBackend, Attend] = {}
        self._chosen: dict[tuple[str, AttentionNeed], tuple[Choice, Attend]] = {}
        self._watched: dict[int, Attend] = {}
        self._lock = threading.Lock()

    def choose(self, requested: str, need: AttentionNeed) -> tuple[Choice, Attend]:
        """The kernel for a need, proven by a trial run on this device. Raises BackendUnavailable or UnknownName."""
        with self._lock:
            if (requested, need) not in self._chosen:
                choice, attend = self._select(requested, need)
                if choice.distribution != CORE:
                    attend = self._spotted(choice, attend)
                self._chosen[requested, need] = choice, attend
            return self._chosen[requested, need]

    def _select(self, requested: str, need: AttentionNeed) -> tuple[Choice, Attend]:
        from dit360_core.planning.probe import probe_attention

        return select(
            "attention",
            requested,
            self._registry,
            self._machine,
            need,
            probe=probe_attention,
            strict=self._strict,
            load=self._load,
        )

    def _spotted(self, choice: Choice, attend: Attend) -> Attend:
        """A plugin's kernel as it paints: the same object for every size, as the kernel is."""
        from dit360_core.planning.spot_checks import spotted

        return self._watched.setdefault(id(attend), spotted(attend, choice.origin))

    def _load(self, offer: AttentionBackend) -> Attend:
        if offer not in self._loaded:
            self._loaded[offer] = offer.load()
        return self._loaded[offer]
