"""Every preset's plan for FLUX.1-dev at 2048×1024, and cards' for the other models by name: docs/choosing.md.

    python bench/presets.py            # writes the tables of docs/choosing.md
    python bench/presets.py --check    # only says whether they are what the planner says now

Measurements are taken from docs/full-size-cuda.json, which ``bench/full_size.py`` writes on a GPU, if it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.planning.budget import Fit, fit
from dit360_core.planning.forecast import Subject, subject_of, with_system_memory
from dit360_core.planning.speed import ASSUMED
from dit360_core.plugins.registry import default_registry
from dit360_core.system.durations import duration
from dit360_core.system.machine import Machine
from dit360_core.system.memory import gib

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- presets: written by make presets -->", "<!-- end of presets -->"
NAMED_BEGIN, NAMED_END = "<!-- named: written by make presets -->", "<!-- end of named -->"
NAMED = ("klein-360", "qwen-360", "krea-360")
"""Models of the families that come as distributions of their own."""
CARDS: tuple[dict[str, Any], ...] = (
    *({"vram": vram} for vram in (8, 12, 16, 24)),
    *({"vram": vram, "ram": 32} for vram in (8, 12, 16, 24)),
)
ASKED: tuple[dict[str, Any], ...] = (
    {"vram": 8},
    {"vram": 12},
    {"vram": 16},
    {"vram": 24},
    {"vram": 48},
    {"preset": "low-vram"},
    {"vram": 24, "preset": "speed"},
    {"vram": 24, "preset": "quality"},
    # A computer whose own memory is small decides more than its card.
    {"vram": 8, "ram": 32},
    {"vram": 12, "ram": 32},
    {"vram": 24, "ram": 32},
    {"vram": 8, "ram": 16},
    {"vram": 12, "ram": 16},
    {"vram": 24, "ram": 16},
    {"vram": 24, "ram": 16, "preset": "speed"},
)


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a table is another.")] = False,
) -> None:
    """Plan every preset and write the tables."""
    page = ROOT / "docs/choosing.md"
    text = page.read_text(encoding="utf-8")
    made = put(put(text, BEGIN, END, rows()), NAMED_BEGIN, NAMED_END, named_rows())
    if check:
        raise typer.Exit(int(made != text))
    page.write_text(made, encoding="utf-8")


def put(page: str, begin: str, end: str, table: Iterable[str]) -> str:
    """The page with a table in the place of the one between two marks."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n" + "\n".join(table) + f"\n{end}{rest.split(end)[1]}"


def subject(model: str = "dit360") -> Subject:
    """A model by name on a common card that is not here."""
    card = Machine(device="cuda", device_name="a CUDA card", capability=(8, 6), fast_bfloat16=True)
    asked = LoadOptions(model=model, device="cuda", vram="24")
    found = subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), default_registry(), card)
    return attrs.evolve(found, here=False)


def rows() -> Iterable[str]:
    """The table."""
    flux, measured = subject(), measurements()
    yield "| asked | what it decides | text | a step | decode | system memory | measured |"
    yield "|---|---|---|---|---|---|---|"
    for asked in ASKED:
        options, found = decided(asked, flux)
        yield row(asked, options, found, measured)


def named_rows() -> Iterable[str]:
    """The table of the other models by name."""
    yield "| model | card | what it decides | text | a step | decode | system memory | time |"
    yield "|---|---|---|---|---|---|---|---|"
    for model in NAMED:
        named, together = subject(model), dict[str, list[str]]()
        for asked in CARDS:
            options, found = decided(asked, named, model)
            prediction = found.best.prediction
            cells = [f"**{gib(p.total)}**" if p is prediction.peak else gib(p.total) for p in prediction.phases]
            told = (
                f"{found.best.sentence(options)} | {' | '.join(cells)} | {gib(prediction.host)} | "
                f"{duration(found.best.seconds)}"
            )
            together.setdefault(told, []).append(" ".join(f"`--{name} {value}`" for name, value in asked.items()))
        for told, cards in together.items():
            yield f"| `{model}` | {', '.join(cards)} | {told} |"


def decided(asked: dict[str, Any], flux: Subject, model: str = "dit360") -> tuple[LoadOptions, Fit]:
    """What is asked for, and what the planner makes of it. asked: of LoadOptions."""
    options = LoadOptions(model=model, **{"vram": "8", **asked})
    card = attrs.evolve(flux, machine=with_system_memory(flux.machine, options, here=False))
    return options, fit(options, card, ASSUMED)


def row(asked: dict[str, Any], options: LoadOptions, found: Fit, measured: dict[str, str]) -> str:
    """One preset."""
    prediction = found.best.prediction
    largest = prediction.peak
    cells = [f"**{gib(p.total)}**" if p is largest else gib(p.total) for p in prediction.phases]
    flags = " ".join(f"`--{name} {value}`" for name, value in asked.items())
    return (
        f"| {flags} | {found.best.sentence(options)} | {' | '.join(cells)} | {gib(prediction.host)} | "
        f"{measured.get(part_of(asked), 'not yet')} |"
    )


def part_of(asked: dict[str, Any]) -> str:
    """The part of ``bench/full_size.py`` that measures a row; one that nobody measures is none of its names."""
    if set(asked) == {"preset"}:
        return "preset-8" if asked["preset"] == "low-vram" else ""
    return "-".join(["preset", str(asked["vram"]), *(f"{key}-{asked[key]}" for key in asked if key != "vram")])


def measurements() -> dict[str, str]:
    """Part → the most memory of the card that was taken, CUDA's own included."""
    file = ROOT / "docs" / "full-size-cuda.json"
    if not file.exists():
        return {}
    found = {}
    for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
        for line in run["rows"]:
            if line.get("card"):
                found[line["part"]] = gib(line["card"])
    return found


if __name__ == "__main__":
    typer.run(main)
