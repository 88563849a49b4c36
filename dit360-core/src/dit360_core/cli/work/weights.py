"""Tells what there is to tell of a file of weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dit360_core.cli.work.reports import print_report
from dit360_core.models.inspection import inspected
from dit360_core.plugins.registry import default_registry
from dit360_core.system.memory import gib


def tell(file: Path, as_json: bool) -> None:
    """Prints a report on a file of weights: a table, or JSON."""
    told = inspected(file, default_registry())
    print_report(told, _rows(told), as_json=as_json)


def _rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    bits = "" if told["bits"] is None else f", {told['bits']:g} bits a number"
    yield "file", f"{told['format']}, {gib(told['bytes'])}, {told['tensors']} tensors{bits}"
    yield "forms", _counted(told["forms"])
    if told["kind"] == "LoRA":
        yield from _lora_rows(told)
    elif told["kind"] == "unknown":
        yield "what it is", f"unknown: {told['why']}"
    for part in told.get("parts", ()):
        yield from _part_rows(part)
    if told.get("made_from"):
        yield "made of", str(told["made_from"])
    for lora in told.get("loras", ()):
        yield "holds", f"the LoRA {lora['from']}, strength {lora.get('strength', 1):g}"
    if told["unused"]:
        first, what = next(iter(told["unused"].items()))
        yield "not used", f"{len(told['unused'])} tensors, such as {first}: {what}"


def _part_rows(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    where = f" under {part['prefix']}" if part["prefix"] else ""
    bits = "" if part["bits"] is None else f", {part['bits']:g} bits"
    yield part["part"], f"of {part['family']}: {part['tensors']} tensors{where}{bits} ({_counted(part['forms'])})"
    if part.get("configuration"):
        yield "", ", ".join(f"{key} {value}" for key, value in part["configuration"].items())
    for note in part["notes"]:
        yield "", f"not told by the file: {note}"
    if part["fits"]:
        option = str(part["option"]).replace("_", "-")
        yield "", f"fits {', '.join(part['fits'])}; give it with --{option}"
    elif near := part["nearest"]:
        wrong = [f"lacks {name}" for name in near["lacks"]]
        wrong += [f"has {shape} for {name}" for name, shape in near["misshapen"].items()]
        wrong += [f"holds {name} beside" for name in near["beside"]]
        yield (
            "",
            f"fits no model that is known here; for {near['model']} it {', '.join(wrong[:3])} ({near['count']} in all)",
        )


def _lora_rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    ranks = ", ".join(f"{rank} ({count} layers)" for rank, count in told["ranks"].items()) or "none told"
    yield "LoRA", f"{', '.join(told['schemes']) or 'names of no scheme that is known'}; rank {ranks}"
    for each in told["layers"]:
        yield each["family"], f"{_counted(each['layers'])}, of {each['of']} layers in the file; give it with --lora"
    if not told["layers"]:
        yield "fits", "no family that is installed: none of its layers is known"


def _counted(forms: dict[str, int]) -> str:
    return ", ".join(f"{count} {form}" for form, count in forms.items())
