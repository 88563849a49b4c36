"""Plans a picture by configurations alone, and shows what it takes."""

from __future__ import annotations

import json
from typing import Any

import attrs
import typer
from rich.console import Console
from rich.table import Table

from dit360_core.cli.output import apart_from_stdout, harmless
from dit360_core.cli.wording import worded
from dit360_core.errors import InputError, named, remedy
from dit360_core.options import (
    DecodeOptions,
    LoadOptions,
    SampleOptions,
    build,
    build_own,
    changed_options,
    own_options,
)
from dit360_core.planning.budget import Candidate, Fit, NothingFits, fit, one
from dit360_core.planning.checks import check_loading, check_request
from dit360_core.planning.forecast import Subject, subject_of
from dit360_core.planning.guidance import check_guidance
from dit360_core.planning.speed import APPLE, ASSUMED, Speed, measure
from dit360_core.planning.verdict import Verdict, verdict_of
from dit360_core.plugins.registry import default_registry
from dit360_core.system.durations import duration
from dit360_core.system.memory import gib
from dit360_core.system.phases import PhaseKind

ALTERNATIVES = 4
"""Other combinations that are shown."""
LONGEST_SIDE = 7
"""Digits of a side in pixels: more than any picture has, so that the sentence about its width is told."""


def size_of(text: str | None) -> dict[str, int]:
    """``2048x1024`` (or ×, or only the width) as options. Raises InputError for anything else."""
    if text is None:
        return {}
    sides = [side.strip() for side in text.lower().replace("×", "x").split("x")]
    # As window_size reads them: Python takes other digits for some too, and writes none of over 4300.
    numbers = [int(side) for side in sides if side.isascii() and side.isdigit() and len(side) <= LONGEST_SIDE]
    if len(numbers) != len(sides) or len(numbers) > 2:
        raise InputError(f"{named('size')} is {text[:40]!r}, but must be width×height in pixels, such as 2048x1024.")
    return dict(zip(("width", "height"), numbers, strict=False))


def _size(text: str | None, options: dict[str, Any]) -> dict[str, int]:
    """Of ``--size``; raises InputError if ``--width`` or ``--height``, which are among the options, say it too."""
    said = [named(name) for name in ("width", "height") if options.get(name) is not None]
    if text is not None and said:
        raise InputError(f"{named('size')} and {' and '.join(said)} say the same; {remedy('leave_one_of_them_out')}.")
    return size_of(text)


def run(size: str | None, with_photo: bool, as_json: bool, options: dict[str, Any]) -> bool | None:
    """Prints the plan; whether the picture fits, or None if nobody knows.

    with_photo: a model that can be shown what is kept is shown it.
    """
    asked = build_own(LoadOptions, options)
    sampling = build(SampleOptions, {"prompt": "any", **own_options(SampleOptions, options), **_size(size, options)})
    decoding = build_own(DecodeOptions, options)
    with apart_from_stdout():
        subject = subject_of(asked, sampling, decoding, default_registry(), referring=with_photo)
        check_guidance(sampling, subject.model, subject.facts)
        check_loading(asked, subject.machine, subject.model)
        check_request(
            sampling, decoding, loading=asked, model=subject.model, registry=subject.registry, machine=subject.machine,
            precision=subject.precision,
        )  # fmt: skip
        device = subject.machine.device
        if subject.here or device == "cpu":
            speed = measure(subject.machine, subject.precision)
        else:
            speed = APPLE if device == "mps" else ASSUMED
        fitted, best = None, None
        if asked.bounded:
            try:
                fitted = fit(asked, subject, speed)
                best = fitted.best
            except NothingFits as error:
                best = error.least  # what there is to be said of it is the verdict below
        best = best or one(asked, subject, speed)
        verdict = verdict_of(asked, subject, speed, best)
    if as_json:
        typer.echo(
            harmless(json.dumps(as_dict(asked, subject, speed, best, fitted, verdict), indent=1, allow_nan=False))
        )
    else:
        _show(asked, subject, speed, best, fitted, verdict)
    return verdict.fits


def as_dict(
    asked: LoadOptions, subject: Subject, speed: Speed, best: Candidate, fitted: Fit | None, verdict: Verdict
) -> dict[str, Any]:
    """For programs: bytes and seconds."""

    def told(each: Candidate) -> dict[str, Any]:
        return {
            "decided": each.differs(asked),
            "error": each.error,
            "seconds": {name: round(value, 2) for name, value in each.parts.items()},
            "time": duration(each.seconds),
            **each.prediction.as_dict(),
        }

    width, height = subject.size
    return {
        "verdict": verdict.as_dict(asked),
        "model": _called(asked, subject), "width": width, "height": height, "precision": subject.precision,
        "device": subject.machine.device, "device_name": subject.machine.device_name, "here": subject.here,
        "kept": {kept.part: kept.sentence() for kept in subject.kept.values()},
        "requested": changed_options(asked), "attention": subject.attention.address,
        "budget": None if fitted is None else fitted.budget,
        "speed": attrs.asdict(speed), "evaluations": subject.evaluations,
        **({} if subject.windows is None else {"windows": subject.windows.count}),
        **told(best), "others": [] if fitted is None else [told(each) for each in fitted.others[:ALTERNATIVES]],
    }  # fmt: skip


def _called(asked: LoadOptions, subject: Subject) -> str:
    """The model: where single files alone name one, by the file that says which it is."""
    return subject.model.base if subject.model.name == "given" else asked.model


def _show(
    asked: LoadOptions, subject: Subject, speed: Speed, best: Candidate, fitted: Fit | None, verdict: Verdict
) -> None:
    console = Console(highlight=False)
    width, height = subject.size
    where = subject.machine.device_name or subject.machine.device

    def say(text: str, style: str = "") -> None:
        console.print(harmless(text), markup=False, soft_wrap=True, style=style)

    say(worded(verdict.sentence(asked)), "bold red" if verdict.fits is False else "bold")
    many = f"{subject.evaluations} evaluation{'' if subject.evaluations == 1 else 's'}"
    if subject.windows is not None:
        many += f" of {subject.windows.count} windows"
    say(f"{_called(asked, subject)} at {width}×{height}, {many}, {subject.precision} on {where}")
    for kept in subject.kept.values():
        say(f"{subject.family.part(kept.part).words}: {kept.sentence()}")
    if fitted is not None:
        say(f"{gib(fitted.budget)}, {fitted.preset}: {worded(best.sentence(asked))}")
    table = Table("phase", "weights", "on the way", "in all", "most of it", "time")
    for phase in best.prediction.phases:
        total = gib(phase.total)
        peak = phase is best.prediction.peak
        many = f" × {subject.looks}" if phase.name == PhaseKind.STEP else ""
        table.add_row(
            phase.name + many, gib(phase.weights), gib(phase.working), f"[bold]{total}[/]" if peak else total,
            phase.dominated_by, duration(best.parts[phase.name]),
        )  # fmt: skip
    console.print(table)
    held = "CUDA itself" if subject.machine.device == "cuda" else "this process and its libraries"
    if best.prediction.held:
        say(f"In all: with {gib(best.prediction.held)} for {held}.")
    if best.prediction.host:
        wait = "wait there" if best.options.offload != "none" else "pass through it while they are loaded"
        say(f"System memory: {gib(best.prediction.host)} of weights {wait}.")
    say(f"A picture: {duration(best.seconds)}; {speed.sentence()}.")
    if fitted is not None and fitted.others:
        also = Table("also fits", "most memory", "time")
        for each in fitted.others[:ALTERNATIVES]:
            also.add_row(worded(each.sentence(asked)), gib(each.prediction.peak.total), duration(each.seconds))
        console.print(also)
