"""FLUX.1-dev's full architecture with random weights on a GPU: steps, decodes, offload, memory; at most 14 minutes.

    python bench/full_size.py                                 # all, into docs/full-size-cuda.json
    python bench/full_size.py --only attention,int8           # these
    python bench/full_size.py --small --device cpu            # a narrow model at 256×128: whether the script works

Nothing is downloaded, and no file of a model is made: weights are random numbers made on the device, and prompts are
random embeddings. Times and memory are those of the trained model, pictures are noise. Settings are the authors':
2048×1024, one token column of padding, 512 text tokens, guidance 2.8.

Each item is a process of its own with a limit of time, and its rows are in the file as soon as they are measured. Steps
are timed in turns with those of the resident bf16 pipeline, where both fit; the ratio is the median of the rounds.
Memory is of the first alone.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dit360_core.atomic import write_atomic
from dit360_core.machine import Machine
from full_size_items import ITEMS, failure
from rich.console import Console
from rich.table import Table

DOCS = Path(__file__).parents[1] / "docs"
PATIENCE = 12
"""Seconds of one comparison, after which no further round begins."""


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu with --small.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="A narrow and short model, 256×128 pixels.")] = False,
    only: Annotated[str, typer.Option(help="Items, by commas: " + ", ".join(ITEMS), show_default="all")] = "",
    rounds: Annotated[int, typer.Option(help="Of each comparison, at most.")] = 7,
    minutes: Annotated[float, typer.Option(help="For all; items that begin later are left out.")] = 14,
    output: Annotated[Path | None, typer.Option(help="JSON file to add to.", show_default="docs/…")] = None,
) -> None:
    """Measure the items, adding each to the file and to the table."""
    unknown = [name for name in only.split(",") if name and name not in ITEMS]
    if unknown:
        raise typer.BadParameter(f"there is no item {', '.join(unknown)}; there are: {', '.join(ITEMS)}")
    if device == "cpu" and not small:
        raise typer.BadParameter("a CPU would take hours for the full model; add --small")
    asked = {"device": device, "small": small, "width": 256 if small else 2048, "rounds": rounds, "patience": PATIENCE}
    output = output or DOCS / f"full-size-{device}.json"
    console, until = Console(), time.monotonic() + 60 * minutes
    earlier = json.loads(output.read_text(encoding="utf-8"))["runs"] if output.exists() else []
    run: dict[str, Any] = {**about(asked), "rows": []}
    for name in only.split(",") if only else ITEMS:
        left = until - time.monotonic()
        if left < 10:
            run["rows"].append({"item": name, "what": name, "skipped": f"{minutes:g} minutes were over"})
        else:
            run["rows"] += in_a_process(name, asked, min(ITEMS[name].limit, left))
        with write_atomic(output, force=True) as file:
            file.write(json.dumps({"runs": [*earlier, run]}, indent=1, ensure_ascii=False).encode() + b"\n")
        console.print(table(run["rows"]))
    console.print(f"Written: {output}")


def about(asked: dict[str, Any]) -> dict[str, Any]:
    """What is measured, where and when."""
    machine = Machine.detect(asked["device"])
    libraries = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "xformers", "flash-attn")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device_name": machine.device_name,
        "device_memory": machine.device_memory,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "versions": {name: found for name in libraries if (found := machine.version(name))},
        "asked": asked,
    }


def in_a_process(name: str, asked: dict[str, Any], limit: float) -> list[dict[str, Any]]:
    """The rows of an item, those before it failed or took too long among them."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "rows"
        told.touch()
        began, ended = time.monotonic(), {}
        command = [sys.executable, __file__, "--child", name, json.dumps(asked), str(told)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [""])[-1]
                ended = {"what": name, "failed": last or f"ended with the code {done.returncode}"}
        except subprocess.TimeoutExpired:
            ended = {"what": name, "failed": f"took more than {limit:.0f} s"}
        rows = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
        took = {"item": name, "item_s": round(time.monotonic() - began, 1)}
        return [{**took, **row} for row in ([*rows, ended] if ended else rows)]


def child(name: str, asked: dict[str, Any], told: Path) -> None:
    """One item, in its process."""

    def tell(row: dict[str, Any]) -> None:
        with told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    item = ITEMS[name]
    try:
        item.run(asked, tell, *item.arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the item's result
        if not isinstance(error, torch.OutOfMemoryError):
            # For whoever looks; the row has one sentence.
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        tell(failure(name, error))


def table(rows: list[dict[str, Any]]) -> Table:
    """All rows so far."""
    made = Table("item", "what", "step or call", "ratio", "quartiles", "peak", "reserved")
    for row in rows:
        why = row.get("failed") or row.get("skipped")
        if why:
            made.add_row(row["item"], row["what"], f"{'failed' if 'failed' in row else 'skipped'}: {why[:100]}")
            continue
        low, high = row.get("quartiles") or (None, None)
        made.add_row(
            row["item"],
            row["what"],
            f"{row.get('seconds', row.get('first_s')):.4g} s",
            f"{row['ratio']:.3f}" if "ratio" in row else "",
            f"{low:.3f} … {high:.3f}" if low is not None else "",
            f"{row['peak'] / 2**30:.2f} GiB",
            f"{row['reserved'] / 2**30:.2f} GiB" if row["reserved"] else "",
        )
    return made


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]))
    else:
        typer.run(main)
