"""How long the command line takes to say something: the median of fresh processes.

    python bench/startup.py --runs 15
    python bench/startup.py --beside ../before/.venv/bin/dit360      # in turn with another installation's: the ratio

A busy machine is slow for both, so the ratio of each pair is taken, and then the median.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

COMMANDS = (["--help"], ["generate", "--help"], ["backends", "--help"], ["backends"], ["doctor"])


def seconds(dit360: str, command: list[str]) -> float:
    """Of one fresh process. dit360: the program. command: its arguments."""
    started = time.perf_counter()
    subprocess.run([dit360, *command], check=False, capture_output=True)
    return time.perf_counter() - started


def main(
    runs: Annotated[int, typer.Option(help="Fresh processes per command.")] = 15,
    beside: Annotated[
        Path | None, typer.Option(help="The program of another installation, to run in turn with this one's.")
    ] = None,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/startup.json"),
) -> None:
    """Print the medians and write them as JSON."""
    dit360 = str(Path(sys.executable).with_name("dit360"))
    found: dict[str, dict[str, float]] = {}
    for command in COMMANDS:
        times: list[float] = []
        others: list[float] = []
        for run in range(runs):
            # Whoever comes second finds files in the system's cache.
            order = [(dit360, times), *([(str(beside), others)] if beside else [])]
            for program, into in reversed(order) if run % 2 else order:
                into.append(seconds(program, command))
        told = {"median": statistics.median(times)}
        if beside:
            told["beside"] = statistics.median(others)
            told["ratio"] = statistics.median(mine / other for mine, other in zip(times, others, strict=True))
        found["dit360 " + " ".join(command)] = told
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2), encoding="utf-8")
    columns = ["median", *(["beside", "ratio"] if beside else [])]
    table = Table("command", "median s", *columns[1:])
    for name, told in found.items():
        table.add_row(name, *(f"{told[column]:.2f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
