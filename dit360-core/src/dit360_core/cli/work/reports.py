"""Prints a report: JSON for programs, a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from dit360_core.cli.output import harmless


def print_report(report: dict[str, Any], rows: Iterable[tuple[str, str]], *, as_json: bool) -> None:
    """Prints a report.

    report: what is printed as JSON.
    rows: the name and the value of each row of the table.
    as_json: print JSON instead of the table.
    """
    if as_json:
        typer.echo(harmless(json.dumps(report, indent=2, ensure_ascii=False)))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(harmless(name), harmless(value))
    Console(highlight=False, markup=False).print(table)
