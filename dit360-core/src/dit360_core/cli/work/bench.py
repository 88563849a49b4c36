"""Compares configurations, and shows what came of it as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dit360_core.cli.benching import comparing
from dit360_core.cli.benching.varying import Configuration, configurations
from dit360_core.cli.wording import worded
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build, build_own, own_options
from dit360_core.plugins.registry import default_registry
from dit360_core.system.atomic import check_writable


def run(
    console: Console,
    vary: list[str],
    rounds: int,
    apart: bool,
    output: Path | None,
    force: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Measures a baseline and what varies from it, and writes the report if there is an output."""
    picture = {name: value for name, value in options.items() if not name.startswith("attention_")}
    baseline = Configuration(
        # A kernel that fell back to another would be measured under the wrong name; so it fails.
        loading=build(LoadOptions, {**own_options(LoadOptions, options), "strict": True}),
        sampling=build_own(SampleOptions, picture),
        decoding=build_own(DecodeOptions, options),
    )
    compared = configurations(baseline, vary, default_registry())
    if output is not None:
        check_writable(output, force=force)
    with console.status("") as status:
        report = comparing.measure(compared, rounds, apart=apart, told=lambda doing: status.update(Text(doing)))
    report["settings"]["vary"] = vary
    if output is not None:
        comparing.write_report(report, output, force=force)
    return report


def show(report: Mapping[str, Any], output: Path | None) -> None:
    """Prints a report as a table."""
    apart, found = report["settings"]["apart"], report["configurations"]
    shown: tuple[str, ...] = ("step", "whole")
    if any(_of_decoding(name) for one in found for name in one["changed"]):
        shown = ("step", "decode", "whole")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("configuration", overflow="fold")
    for name in shown:
        table.add_column("whole picture" if name == "whole" else name, justify="right", no_wrap=True)
        table.add_column("of medians" if apart else "ratio", justify="right", no_wrap=True)
    for name in ("peak memory", "picture"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(one["name"], *(["failed"] if one["failed"] else _cells(one, shown, one is found[0])))
    console = Console(highlight=False, markup=False)
    # Wider than a narrow terminal rather than with half a number in each cell.
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    for one in found:
        if one["failed"]:
            console.print(f"{one['name']} failed: {worded(one['failed'])}", soft_wrap=True)
    if apart and len(found) > 1:
        console.print(
            "Each ran alone, one after the other: the ratios are of medians, and hold what the machine did meanwhile.",
            soft_wrap=True,
        )
    if output is not None:
        console.print(f"Saved {output}.", soft_wrap=True)


def _of_decoding(name: str) -> bool:
    return name == "vae" or name.startswith("vae_") or name in [field.name for field in attrs.fields(DecodeOptions)]


def _cells(one: Mapping[str, Any], shown: tuple[str, ...], is_base: bool) -> list[str]:
    """A row: seconds and ratio of what is shown, the ratio of steps with its quartiles; memory; picture."""
    cells = []
    for name in shown:
        cells.append(f"{one['medians'][name]:.3g} s" if name in one["medians"] else "")
        ratio = one["ratios"].get(name)
        cells.append("1" if is_base else f"{ratio['median']:.3f}" if ratio else "")
        if ratio and ratio["quartiles"] and name != "whole":
            cells[-1] += " ({:.2f} … {:.2f})".format(*ratio["quartiles"])
    memory = one["memory"]["cuda"] or one["memory"]["resident"]
    return [*cells, f"{memory['peak'] / 2**20:.0f} MiB", _picture(one, is_base)]


def _picture(one: Mapping[str, Any], is_base: bool) -> str:
    if is_base:
        return ""
    if one["picture"] is None:
        return "not comparable"
    return "same" if one["picture"]["same"] else f"{one['picture']['psnr']:.1f} dB"
