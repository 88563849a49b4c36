"""How long the command line takes to say something: the median of fresh processes.

python bench/startup.py --runs 15
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


def main(
    runs: Annotated[int, typer.Option(help="Fresh processes per command.")] = 15,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/startup.json"),
) -> None:
    """Print the medians and write them as JSON."""
    dit360 = str(Path(sys.executable).with_name("dit360"))
    medians = {}
    for command in COMMANDS:
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            subprocess.run([dit360, *command], check=False, capture_output=True)
            times.append(time.perf_counter() - started)
        medians["dit360 " + " ".join(command)] = statistics.median(times)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(medians, indent=2), encoding="utf-8")
    table = Table("command", "median s")
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
