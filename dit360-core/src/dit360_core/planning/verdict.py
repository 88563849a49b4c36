"""Whether a picture fits the memory that there is, in one sentence, and what would if it does not."""

from __future__ import annotations

import contextlib
from typing import Any

import attrs

from dit360_core.errors import InputError, Sentence, marked, plain
from dit360_core.options import LoadOptions
from dit360_core.planning.budget import DOING, ERROR_COSTS, SHARE, Candidate, all_there, budget_for, candidates
from dit360_core.planning.forecast import HOST_HELD, HOST_SHARE, UNLIMITED, Subject, chosen_setup
from dit360_core.planning.prediction import predict
from dit360_core.planning.speed import Speed
from dit360_core.system.durations import duration
from dit360_core.system.memory import gib

ALTERNATIVES = 3
_OPEN: dict[str, Any] = {"offload": "none", "evict": "none", "quantization_mode": "none", "attention_slice_size": 0}
_MEMORY = {"cuda": "the card's memory", "mps": "unified memory", "cpu": "system memory"}


@attrs.frozen(kw_only=True)
class Bounds:
    """budget: bytes of the device, with everything; room: how many of them may be used. None: nobody knows.

    system: bytes of system memory, and host_room: how many of them may hold weights that wait.
    """

    budget: int | None
    room: int | None
    system: int | None
    host_room: int | None

    def take(self, each: Candidate) -> bool:
        """Whether a combination keeps to them."""
        on_device = self.room is None or each.prediction.peak.total <= self.room
        return on_device and (self.host_room is None or each.prediction.host <= self.host_room)


@attrs.frozen(kw_only=True)
class Verdict:
    """Whether a picture fits.

    fits: None where nobody knows how much memory there is.
    why: half a sentence.
    would: what fits instead, the best first.
    smaller: (width, bytes) of a picture that would fit where nothing fits at this size.
    least: the combination that comes nearest.
    """

    fits: bool | None
    why: str
    bounds: Bounds
    would: tuple[Candidate, ...] = ()
    smaller: tuple[int, int] | None = None
    least: Candidate | None = None

    def sentence(self, asked: LoadOptions) -> Sentence:
        """The verdict for people."""
        return Sentence(self._sentence(asked))

    def _sentence(self, asked: LoadOptions) -> str:
        if self.fits is None:
            return f"Needs {self.why}."
        return f"Fits: {self.why}." if self.fits else f"Does not fit: {self.why}. {self._advice(asked)}"

    def advice(self, asked: LoadOptions) -> Sentence:
        """What would fit."""
        return Sentence(self._advice(asked))

    def _advice(self, asked: LoadOptions) -> str:
        if self.would:
            told = "; or ".join(
                f"{marked(each.sentence(asked))} ({gib(each.prediction.peak.total)}, {duration(each.seconds)} a "
                "picture)"
                for each in self.would
            )
            return f"What would: {told}."
        if self.least is None:
            return ""
        takes = self.least.prediction
        host = f" and {gib(takes.host)} of system memory for weights" if self.bounds.host_room is not None else ""
        how = marked(self.least.sentence(asked))
        least = f"No combination fits: the smallest takes {gib(takes.peak.total)}{host} ({how})"
        if self.smaller is None:
            return f"{least}."
        width, total = self.smaller
        return f"{least}; a picture of width {width} takes {gib(total)}."

    def as_dict(self, asked: LoadOptions) -> dict[str, Any]:
        """For programs: bytes and seconds."""
        return {
            "fits": self.fits,
            "sentence": plain(self.sentence(asked)),
            **attrs.asdict(self.bounds),
            "would_fit": [
                {
                    "options": each.differs(asked), "peak": each.prediction.peak.total, "host": each.prediction.host,
                    "seconds": round(each.seconds, 2), "error": each.error,
                }
                for each in self.would
            ],
            "least": None if self.least is None else {
                "options": self.least.differs(asked), "peak": self.least.prediction.peak.total,
                "host": self.least.prediction.host,
            },
            "smaller": None if self.smaller is None else {"width": self.smaller[0], "peak": self.smaller[1]},
        }  # fmt: skip


def bounds_of(asked: LoadOptions, subject: Subject, *, only_system: bool = False) -> Bounds:
    """What there is, or is to be kept to.

    only_system: leave the memory of a card out, for which there are ways while a picture is made.
    """
    device = subject.machine.device
    budget = None
    if not (only_system and device == "cuda"):
        # Of a device that is not here, and of which nothing was said, nobody knows.
        with contextlib.suppress(InputError):
            budget = budget_for(asked, subject) if asked.bounded or not subject.here else all_there(subject)
    return Bounds(
        budget=budget,
        room=None if budget is None else int(budget * SHARE.get(device, 1.0)),
        system=subject.machine.system_memory or None if device == "cuda" else None,
        host_room=subject.host_room if device == "cuda" else None,
    )


def verdict_of(
    asked: LoadOptions, subject: Subject, speed: Speed, best: Candidate, *, only_system: bool = False
) -> Verdict:
    """Whether ``best``, which was decided or asked for, fits; and what would.

    only_system: as in :func:`bounds_of`.
    """
    bounds = bounds_of(asked, subject, only_system=only_system)
    memory = _MEMORY[subject.machine.device]
    peak, host = best.prediction.peak, best.prediction.host
    needed = (host + HOST_HELD) / HOST_SHARE
    if bounds.take(best):
        if bounds.budget is None:
            waiting = f", and {gib(needed)} of system memory" if host else ""
            why = f"{gib(peak.total)} of {memory} while {DOING[peak.name]}{waiting}"
            return Verdict(fits=None if not only_system else True, why=why, bounds=bounds)
        why = (
            f"at most {gib(peak.total)} of {gib(bounds.budget)} of {memory}, {gib(bounds.budget - peak.total)} to spare"
        )
        if host and bounds.system is not None:
            why += f"; {gib(host)} of weights in {gib(bounds.system)} of system memory"
        elif host:
            why += f", if there are {gib(needed)} of system memory"
        return Verdict(fits=True, why=why, bounds=bounds)
    short = []
    if bounds.room is not None and bounds.budget is not None and peak.total > bounds.room:
        usable = "" if bounds.room == bounds.budget else f", of which {gib(bounds.room)} can be used"
        short.append(
            f"{DOING[peak.name]} takes {gib(peak.total)} of {memory}, and there are {gib(bounds.budget)}{usable}"
        )
    if bounds.host_room is not None and bounds.system is not None and host > bounds.host_room:
        short.append(
            f"{gib(host)} of weights need system memory, and of {gib(bounds.system)} there are {gib(bounds.host_room)} "
            "for them"
        )
    opened = attrs.evolve(asked, **_OPEN)
    there = all_there(subject) if subject.here else UNLIMITED
    every = list(candidates(opened, subject, speed, bounds.budget or there))
    fitting = [each for each in every if bounds.take(each)]
    would = _best_of_each_kind(fitting)
    least = min(
        every, key=lambda each: (each.prediction.host > (bounds.host_room or 2**60), each.prediction.peak.total)
    )
    return Verdict(
        fits=False,
        why=", and ".join(short),
        bounds=bounds,
        would=would,
        smaller=None if would else _smaller(subject, least, bounds),
        least=least,
    )


def _best_of_each_kind(fitting: list[Candidate]) -> tuple[Candidate, ...]:
    """The best for each weight of a picture's error against its time, without doubles."""
    found: list[Candidate] = []
    for weight in (ERROR_COSTS["balanced"], float("inf"), ERROR_COSTS["speed"]):
        allowed = [each for each in fitting if not each.error or weight < float("inf")]
        ranked = sorted(
            allowed, key=lambda each: (each.seconds * (1 + (weight * each.error if each.error else 0)), each.seconds)
        )
        if ranked and ranked[0] not in found:
            found.append(ranked[0])
    return tuple(found[:ALTERNATIVES])


def _smaller(subject: Subject, least: Candidate, bounds: Bounds) -> tuple[int, int] | None:
    """Width and bytes of the next smaller picture that fits by the combination that takes least."""
    if bounds.host_room is not None and least.prediction.host > bounds.host_room:
        return None
    smaller = subject.smaller()
    while smaller is not None:
        total = predict(smaller.shapes, chosen_setup(smaller, least.options, bounds.budget), subject.held).peak.total
        if bounds.room is None or total <= bounds.room:
            return smaller.size[0], total
        smaller = smaller.smaller()
    return None
