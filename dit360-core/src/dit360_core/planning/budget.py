"""Of all combinations that keep to a budget, the one that costs least picture and time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from dit360_core.errors import BackendUnavailable, InputError, Sentence, marked, named, remedy, setting
from dit360_core.models.architecture import DENOISER
from dit360_core.options import LoadOptions, budget_of
from dit360_core.planning.checks import contradicts
from dit360_core.planning.forecast import HOST_SHARE, Subject, chosen_setup
from dit360_core.planning.prediction import Prediction, Setup, predict
from dit360_core.planning.quantization import quantization_need
from dit360_core.planning.speed import Speed
from dit360_core.plugins.choosing import in_words, judge
from dit360_core.system.memory import free_memory, gib, used_memory
from dit360_core.system.phases import PhaseKind

log = logging.getLogger("dit360")

LOW = 8 * 2**30
"""What ``low-vram`` keeps to unless it is told."""
SHARE = {"cuda": 0.92, "mps": 0.75}
"""Of a budget: torch's allocator on CUDA reserves more than it gives out; of the memory that an Apple GPU shares with
the system, Metal advises a program to take three quarters. Elsewhere all of it."""
ERROR_COSTS = {"balanced": 10.0, "speed": 1.0, "quality": float("inf")}
"""How much a relative error of the transformer's output counts against time: with 10, 3 % of it is worth 30 %."""
SLICES = 1024


@attrs.frozen(kw_only=True)
class Candidate:
    """One combination.

    error: what its quantization may do to the transformer's output.
    seconds: of a picture, without loading; parts: of each phase, loading too.
    """

    options: LoadOptions
    prediction: Prediction
    error: float
    seconds: float
    parts: dict[str, float] = attrs.field(factory=dict)

    def differs(self, asked: LoadOptions) -> dict[str, object]:
        """What was decided beside what was asked."""
        now, before = attrs.asdict(self.options), attrs.asdict(asked)
        return {name: value for name, value in now.items() if value != before[name]}

    def sentence(self, asked: LoadOptions) -> Sentence:
        """What was decided beside what was asked, in words."""
        told = [setting(name, value) for name, value in self.differs(asked).items()]
        if told:
            return Sentence(", ".join(told))
        plain = all(getattr(self.options, name) == "none" for name in ("offload", "evict", "quantization_mode"))
        return Sentence("everything on the device, nothing quantized" if plain else "as asked for")


class NothingFits(InputError):
    """No combination keeps to the budget.

    least: the one that comes nearest.
    """

    def __init__(self, sentence: str, least: Candidate) -> None:
        super().__init__(sentence)
        self.least = least


@attrs.frozen(kw_only=True)
class Fit:
    """What keeps to a budget.

    best: what is taken.
    others: what else keeps to the budget, by rising cost.
    budget: bytes, with everything.
    """

    best: Candidate
    others: tuple[Candidate, ...]
    budget: int
    preset: str


def budget_for(asked: LoadOptions, subject: Subject) -> int:
    """Bytes to keep to, of a device or, on a CPU, of system memory; with what this process holds already."""
    given = budget_of(asked.vram) if asked.vram is not None else None
    if given is None and asked.preset == "low-vram":
        given = LOW
    device, system = subject.machine.device, subject.machine.system_memory
    if device != "cuda" and system and (asked.ram is not None or not subject.here):
        # The system's memory is all that there is; on a CPU nobody else keeps a share of it for the system.
        shared = int(HOST_SHARE * system) if device == "cpu" else system
        given = shared if given is None else min(given, shared)
    if not subject.here:
        if given is None:
            how = "vram" if device == "cuda" else "ram"
            raise InputError(f"No such device was found here, so its memory is unknown; give it with {named(how)}.")
        return given
    there = all_there(subject)
    if given is not None and given > there and (asked.vram is not None or asked.preset == "low-vram"):
        named_budget = setting("vram", asked.vram or "8")
        log.warning("%s is more than the %s available; that is kept to.", named_budget, gib(there))
    return there if given is None else min(given, there)


def all_there(subject: Subject) -> int:
    """Bytes that are free on a device of this machine, and those that this process holds."""
    device = subject.machine.device
    return free_memory(device) + max(subject.held, used_memory(device))


def fit(
    asked: LoadOptions, subject: Subject, speed: Speed, *, usable: Callable[[LoadOptions], bool] = lambda _: True
) -> Fit:
    """Decides what was left open.

    usable: whether a combination can really be loaded; asked of the best ones only.

    Raises InputError if nothing keeps to the budget, with what comes nearest and what would fit.
    """
    budget = budget_for(asked, subject)
    preset = "balanced" if asked.preset in ("none", "auto", "low-vram") else asked.preset
    room = int(budget * SHARE.get(subject.machine.device, 1.0))
    every = list(candidates(asked, subject, speed, budget))
    if not every:
        raise InputError(f"None of the quantizations can be used here; {remedy('see_backends')}.")
    fitting = [each for each in every if each.prediction.peak.total <= room and subject.host_suffices(each.prediction)]
    weight = ERROR_COSTS[preset]
    fitting.sort(key=lambda each: (_cost(each, weight), each.prediction.peak.total))
    for i, best in enumerate(fitting):
        if usable(best.options):
            return Fit(best=best, others=(*fitting[:i], *fitting[i + 1 :]), budget=budget, preset=preset)
    raise NothingFits(_nothing_fits(every, budget, subject, asked), nearest(every, subject.host_room))


def nearest(every: list[Candidate], host_room: int | None) -> Candidate:
    """Of combinations that do not fit, the one that takes least of the device, if system memory takes one of them;
    else the one that takes least of that."""
    possible = [each for each in every if host_room is None or each.prediction.host <= host_room]
    if possible:
        return min(possible, key=lambda each: each.prediction.peak.total)
    return min(every, key=lambda each: (each.prediction.host, each.prediction.peak.total))


def _cost(each: Candidate, weight: float) -> float:
    return each.seconds * (1 + (weight * each.error if each.error else 0.0))


def _nothing_fits(every: list[Candidate], budget: int, subject: Subject, asked: LoadOptions) -> str:
    possible = [each for each in every if subject.host_suffices(each.prediction)]
    least = nearest(every, subject.host_room)
    peak = least.prediction.peak
    width, height = subject.size
    sentence = (
        f"Nothing fits into {gib(budget)} at {width}×{height}: the least is {gib(peak.total)} while {DOING[peak.name]} "
        f"({marked(least.sentence(asked))})"
    )
    if not possible:
        return (
            f"Nothing fits into {gib(subject.machine.system_memory)} of system memory, of which "
            f"{gib(subject.host_room or 0)} may hold weights: at least {gib(least.prediction.host)} would wait there "
            f"({marked(least.sentence(asked))}); allow a quantization of fewer bits, or use a model that is stored "
            "quantized (dit360 quantize)."
        )
    smaller = subject.smaller()
    while smaller is not None:
        setup = chosen_setup(smaller, least.options, budget)
        total = predict(smaller.shapes, setup, subject.held).peak.total
        if total <= budget * SHARE.get(subject.machine.device, 1.0):
            return (
                f"{sentence}; use {named('width')} {smaller.size[0]}, which takes {gib(total)}, or a higher "
                f"{named('vram')}."
            )
        smaller = smaller.smaller()
    return f"{sentence}; use a higher {named('vram')}."


DOING = {
    PhaseKind.LOADING: "loading",
    PhaseKind.ENCODE: "encoding the picture",
    PhaseKind.TEXT: "reading the prompt",
    PhaseKind.STEP: "sampling",
    PhaseKind.DECODE: "decoding",
}


def candidates(asked: LoadOptions, subject: Subject, speed: Speed, budget: int) -> Iterator[Candidate]:
    """Every combination of what was left open, with its prediction."""
    held = subject.held
    for options in _combinations(asked, subject):
        error = _error(options, subject)
        if error is None or (asked.preset == "quality" and error > 0):
            continue
        setup = chosen_setup(subject, options, budget)
        prediction = predict(subject.shapes, setup, held)
        parts = seconds_of(prediction, setup, speed, subject)
        yield Candidate(options=options, prediction=prediction, error=error, seconds=_of_a_picture(parts), parts=parts)


def one(options: LoadOptions, subject: Subject, speed: Speed) -> Candidate:
    """Exactly these options. Raises BackendUnavailable for a quantization that cannot be used."""
    if options.quantization_mode == "auto":
        raise InputError(
            f"{setting('quantization_mode', 'auto')} depends on what is free when a model is loaded; plan with "
            f"{named('vram')} or {named('preset')}, or name a mode."
        )
    error = _error(options, subject)
    if error is None:
        found = subject.registry.find("quantization", options.quantization_mode)
        need = quantization_need(options, subject.machine, subject.precision, subject.lora)
        verdicts = {entry.address: judge(entry, subject.machine, need) for entry in found}
        raise BackendUnavailable(
            f"The quantization {options.quantization_mode!r} cannot be used there: {in_words(verdicts.items())}.",
            verdicts,
        )
    setup = chosen_setup(subject, options, all_there(subject) if subject.here else None)
    prediction = predict(subject.shapes, setup, subject.held)
    parts = seconds_of(prediction, setup, speed, subject)
    return Candidate(options=options, prediction=prediction, error=error, seconds=_of_a_picture(parts), parts=parts)


def _of_a_picture(parts: Mapping[str, float]) -> float:
    """Without loading, which is done once."""
    return sum(seconds for name, seconds in parts.items() if name != PhaseKind.LOADING)


def _combinations(asked: LoadOptions, subject: Subject) -> Iterator[LoadOptions]:
    device = subject.machine.device
    offloads = {"cuda": ("none", "text", "model", "group", "sequential"), "cpu": ("none", "disk")}.get(
        device, ("none",)
    )
    evictions = ("none", "text", "all")
    modes = ["none"]
    if not subject.stored:
        modes += [e.name for e in subject.registry.entries("quantization") if e.name != "none" and not e.refused]
    slices = (0, SLICES) if subject.stores_scores else (0,)
    chosen = {
        "offload": offloads if asked.offload == "none" else (asked.offload,),
        "evict": evictions if asked.evict == "none" else (asked.evict,),
        "quantization_mode": modes if asked.quantization_mode in ("none", "auto") else (asked.quantization_mode,),
        "attention_slice_size": slices if asked.attention_slice_size == 0 else (asked.attention_slice_size,),
    }
    for values in itertools.product(*chosen.values()):
        decided: dict[str, Any] = dict(zip(chosen, values, strict=True))
        options = attrs.evolve(asked, **decided)
        if not contradicts(options):
            yield options


def _error(options: LoadOptions, subject: Subject) -> float | None:
    """What a quantization may do to the transformer's output; None if it cannot be used."""
    if options.quantization_mode in ("none", "auto"):
        return 0.0
    need = quantization_need(options, subject.machine, subject.precision, subject.lora)
    found = subject.registry.find("quantization", options.quantization_mode)
    if all(judge(entry, subject.machine, need) for entry in found):
        return None
    only_text = DENOISER not in subject.family.quantized_by(options.quantization_parts)
    return 0.0 if only_text else float(found[0].offer.error)


def seconds_of(prediction: Prediction, setup: Setup, speed: Speed, subject: Subject) -> dict[str, float]:
    """Of each phase of a picture; good for comparing, and within a factor of two or so."""
    found: dict[str, float] = {}
    for phase in prediction.phases:
        if phase.name == PhaseKind.LOADING:
            found[phase.name] = phase.weights / speed.disk
            continue
        computing = phase.operations / speed.operations
        if phase.name in (PhaseKind.ENCODE, PhaseKind.DECODE):
            computing *= 3  # convolutions, memory-bound
            computing *= subject.encodings if phase.name == PhaseKind.ENCODE else 1
        else:
            computing *= (1.1 if setup.quantized else 1.0) * (
                2.0 if setup.stores_scores and phase.name == PhaseKind.STEP else 1.0
            )
        if phase.name == PhaseKind.STEP:
            computing *= subject.looks
        times = subject.looks if phase.name == PhaseKind.STEP and setup.offload != "model" else 1
        link = speed.disk if setup.offload == "disk" else speed.link / (3 if setup.offload == "sequential" else 1)
        moving = phase.moved * times / link
        if setup.evict == "all" or (setup.evict == "text" and phase.name == PhaseKind.TEXT):
            moving += phase.weights / speed.disk
        hidden = setup.offload in ("group", "text") and setup.device == "cuda"
        found[phase.name] = max(computing, moving) if hidden else computing + moving
    return found
