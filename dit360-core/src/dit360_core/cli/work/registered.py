"""Shows every offer of every plugin in a table, and why one cannot be used here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from dit360_core.cli.output import apart_from_stdout, harmless
from dit360_core.cli.wording import worded
from dit360_core.planning.catalogue import listing
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine


def run(probe: bool, as_json: bool) -> None:
    """Prints what there is.

    probe: try and time the attention kernels, and show these.
    """
    with apart_from_stdout():
        report = listing(default_registry(), Machine.detect(), probe=probe)
    if as_json:
        typer.echo(harmless(json.dumps(report, indent=2, ensure_ascii=False)))
    else:
        show(report)


def show(report: dict[str, Any]) -> None:
    """Prints what :mod:`dit360_core.planning.catalogue` tells as a table: of all kinds, or of the kernels tried."""
    # Without markup: "[extra]" in the hint "pip install library[extra]" is no style.
    console = Console(highlight=False, markup=False)
    offers = report["offers"]
    if "probed" in report:
        offers = [offer for offer in offers if offer["kind"] == "attention"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _probed_columns() if "probed" in report else _columns()
    for name, (justify, _) in columns.items():
        table.add_column(name, overflow="fold", justify=justify)
    last = None
    for offer in offers:
        if last not in (None, offer["kind"]):
            table.add_row()
        row = [harmless(cell(offer)) for _, cell in columns.values()]
        if "kind" in columns and offer["kind"] == last:
            row[0] = ""
        table.add_row(*row, style=None if offer["available"] else "yellow")
        last = offer["kind"]
    if "probed" in report:
        need = report["probed"]
        console.print(
            f"Attention in {need['dtype']} on {need['device']}, {need['heads']} heads of {need['head_dim']} channels, "
            f"{need['length']} keys. Errors are largest errors against float32, in units of the largest output.\n",
            soft_wrap=True,
        )
    console.print(table)
    for failure in report["failures"]:
        console.print(
            f"\nA plugin failed: {harmless(failure['sentence'])}",
            style="yellow",
            soft_wrap=True,
        )
    if report["disabled"]:
        console.print(f"\nSwitched off by DIT360_DISABLED_PLUGINS: {', '.join(report['disabled'])}", soft_wrap=True)


_Columns = dict[str, tuple[Literal["left", "right"], Callable[[dict[str, Any]], str]]]


def _columns() -> _Columns:
    return {
        "kind": ("left", lambda offer: offer["kind"]),
        "name": ("left", lambda offer: offer["name"]),
        "from": ("left", lambda offer: f"{offer['distribution']} {offer['version']}"),
        "here": ("left", lambda offer: "yes" if offer["available"] else "no"),
        "what it is, or why not": ("left", lambda offer: _why_not(offer) or offer["summary"]),
    }


def _probed_columns() -> _Columns:
    def number(key: str, form: str, factor: int = 1) -> Callable[[dict[str, Any]], str]:
        def cell(offer: dict[str, Any]) -> str:
            value = offer["probe"][key]
            return "" if value is None else format(value * factor, form)

        return cell

    return {
        "name": ("left", lambda offer: offer["name"]),
        "from": ("left", lambda offer: offer["distribution"]),
        "here": ("left", lambda offer: "yes" if offer["available"] else "no"),
        "error": ("right", number("error", ".1e")),
        "allowed": ("right", number("allowed", ".1e")),
        "ms": ("right", number("seconds", ".4g", 1000)),
        "tokens": ("right", number("length", "d", 1)),
        "speed, sdpa = 1": ("right", number("of_sdpa", ".2f")),
        "why not": ("left", _why_not),
    }


def _why_not(offer: dict[str, Any]) -> str:
    return "\n".join(
        worded(r["sentence"]) + (f"\n→ {worded(r['hint'])}" if r["hint"] else "") for r in offer["reasons"]
    )
