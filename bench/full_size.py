"""FLUX.1-dev's full architecture with random weights on a GPU, in nine minutes, and what is left in as many again.

    python bench/full_size.py                              # into docs/full-size-cuda.json and .md; again: what is left
    python bench/full_size.py --minutes 3 --only steps     # this part, if it is not done
    python bench/full_size.py --small --device cpu         # a narrow model at 256×128: whether the script works

Nothing is downloaded, and no file of a model is made: weights are random numbers made on the device, and prompts are
random embeddings. Times and memory are those of the trained model, pictures are noise. Settings are the authors':
2048×1024, one token column of padding, 512 text tokens, guidance 2.8.

Parts come in the order of what would be missed most. Each is a process of its own with a limit of time, and its rows
are in both files as soon as they are measured. A row that fails is told with the end of its traceback, and the others
go on: if the process is lost with it, in a new one. A second run takes up what is left: first what was never tried,
then what failed. Steps are timed in turns with those of the resident bf16 pipeline, where both fit; the ratio is the
median of the rounds. Memory is of the first alone.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from dit360_core.system.atomic import write_atomic
from dit360_core.system.installed import installed_version
from dit360_core.system.machine import Machine
from full_size_page import page, state_of
from rich.console import Console

DOCS = Path(__file__).parents[1] / "docs"
PATIENCE = 5
"""Seconds of one comparison, after which no further round begins."""
LEAST = 12
"""Seconds without which no part begins: the libraries alone take most of that."""
OVER = "over"
"""Why a process ended: its time was."""
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "xformers",
    "flash-attn",
    "triton",
)

Run = dict[str, Any]
"""One call of this program: about, rows, and parts: name → what became of it."""


@attrs.frozen
class Part:
    """What a process does: ``module.function(asked, work, *arguments)``. limit: seconds, after which it is ended.

    The function asks ``work`` for each of its rows, so that rows of before are not measured again.
    """

    module: str
    function: str
    arguments: tuple[Any, ...] = ()
    limit: float = 75

    def run(self, asked: dict[str, Any], work: Work) -> None:
        getattr(import_module(self.module), self.function)(asked, work, *self.arguments)


def items(function: str, *arguments: Any, limit: float = 75) -> Part:
    return Part("full_size_items", function, arguments, limit)


def moving(function: str, *arguments: Any, limit: float = 100) -> Part:
    return Part("full_size_moving", function, arguments, limit)


# In the order of what would be missed most. The first seven are what nine minutes are meant for.
PARTS = {
    "kernels": items("kernels", limit=90),
    "steps": items("steps", limit=120),
    "quantized": items("quantized", limit=130),
    "preset-8": moving("preset", 8, limit=110),
    "decode": items("decode", limit=90),
    "preset-48": moving("preset", 48, limit=90),
    "official-bf16": items("official", "bf16"),
    "preset-8-ram-32": moving("preset", 8, 32, limit=110),
    "fused": items("fused"),
    "compile": items("compiled", limit=150),
    "preset-24-ram-32": moving("preset", 24, 32, limit=100),
    "preset-12-ram-16": moving("preset", 12, 16, limit=100),
    "preset-8-ram-16": moving("preset", 8, 16, limit=100),
    "official-fp16": items("official", "fp16"),
    "offload-model": moving("offloaded", "model", limit=90),
    "offload-sequential": moving("offloaded", "sequential", limit=90),
    "tests": Part("full_size_tests", "on_gpu", limit=240),
}


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu with --small.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="A narrow and short model, 256×128 pixels.")] = False,
    only: Annotated[str, typer.Option(help="Parts, by commas: " + ", ".join(PARTS), show_default="all")] = "",
    again: Annotated[str, typer.Option(help="Parts to measure although they are done, by commas.")] = "",
    rounds: Annotated[int, typer.Option(help="Of each comparison, at most.")] = 7,
    minutes: Annotated[float, typer.Option(help="For all of it; parts are cut short there.")] = 9,
    output: Annotated[Path | None, typer.Option(help="File to write, JSON; a page is beside it.")] = None,
    earlier: Annotated[Path | None, typer.Option(help="File of earlier runs to go on from; default: output's.")] = None,
) -> None:
    """Measure what is left, adding each row to the file and to the page."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the process that is at work
    unknown = [name for name in names_in(only) + names_in(again) if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"there is no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    if device == "cpu" and not small:
        raise typer.BadParameter("a CPU would take hours for the full model; add --small")
    asked = {
        "device": device,
        # A CPU without bf16 would take minutes for what is small.
        "precision": "fp32" if small and device == "cpu" else "bf16",
        "small": small,
        "width": 256 if small else 2048,
        "rounds": rounds,
        "patience": PATIENCE,
    }
    standard = DOCS / f"full-size-{device}.json"
    output = output or standard
    output.parent.mkdir(parents=True, exist_ok=True)
    source = earlier or (output if output.exists() else standard)
    before: list[Run] = json.loads(source.read_text(encoding="utf-8"))["runs"] if source.exists() else []
    wanted = {name: PARTS[name] for name in PARTS if not only or name in names_in(only)}
    measure(wanted, asked, before, output, began + 60 * minutes, names_in(again), PARTS)


def names_in(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def measure(
    parts: Mapping[str, Part],
    asked: dict[str, Any],
    before: list[Run],
    output: Path,
    until: float,
    again: Iterable[str] = (),
    every: Iterable[str] = (),
) -> Run:
    """One run: each part that is left, in turn, while there is time.

    before: earlier runs. until: of the monotonic clock. again: parts to measure although they are done. every: the
    names of all parts, for the page to tell which are left.
    """
    console = Console()
    run: Run = {**about(asked), "rows": [], "parts": {}}
    alike = [other for other in before if identity(other) == identity(run)]

    def keep() -> None:
        runs = [*before, run]
        with write_atomic(output, force=True) as file:
            file.write(json.dumps({"runs": runs}, indent=1, ensure_ascii=False).encode() + b"\n")
        with write_atomic(output.with_suffix(".md"), force=True) as file:
            file.write(page(runs, list(every) or list(parts)).encode())

    for name in left(parts, alike, again):
        seconds = min(parts[name].limit, until - time.monotonic())
        if seconds < min(LEAST, parts[name].limit):
            run["parts"][name] = {"state": "no time"}
            console.print(f"{name}: no time was left for it")
        else:
            done = set() if name in again else done_rows(alike, name)
            in_processes(name, parts[name], {**asked, "until": time.time() + seconds}, seconds, done, run, keep)
            state = run["parts"][name]
            console.print(f"{name}: {state['state']}, {state['seconds']:.0f} s", markup=False)
        keep()
    keep()
    console.print(f"Written: {output} and {output.with_suffix('.md').name}", markup=False)
    return run


def about(asked: dict[str, Any]) -> Run:
    """What is measured, where and when."""
    machine = Machine.detect(asked["device"])
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device_name": machine.device_name,
        "device_memory": machine.device_memory,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": {name: found for name in LIBRARIES if (found := installed_version(name))},
        "asked": asked,
    }


def identity(run: Run) -> tuple[Any, ...]:
    """What must be equal for a row of one run to stand for another's."""
    asked = run["asked"]
    return run.get("device_name"), run["versions"].get("torch"), asked["small"], asked["width"], asked.get("precision")


def left(parts: Mapping[str, Part], alike: list[Run], again: Iterable[str]) -> list[str]:
    """The parts that are not done: first those that were never tried, each kind in its order."""
    states = {name: state_of(name, alike) for name in parts}
    fresh = [name for name in parts if states[name] in ("", "no time") or name in again]
    return fresh + [name for name in parts if name not in fresh and states[name] != "done"]


def done_rows(alike: list[Run], part: str) -> set[str]:
    """What of a part was measured, or cannot be had on this machine."""
    return {row["what"] for run in alike for row in run["rows"] if row["part"] == part and "failed" not in row}


def in_processes(
    name: str, part: Part, asked: dict[str, Any], limit: float, done: set[str], run: Run, keep: Callable[[], None]
) -> None:
    """Adds the rows of a part as they come. After a process that is lost, the next goes on behind where it fell."""
    began, known, state = time.monotonic(), set(done), "done"
    with tempfile.TemporaryDirectory() as folder:
        while True:
            told, seconds = Path(folder) / "told", limit - (time.monotonic() - began)
            told.write_text("")
            why, current, rows = in_a_process(name, part, {**asked, "done": sorted(known)}, seconds, told, run, keep)
            if not why:
                break
            known |= {row["what"] for row in rows} | {current or name}
            if why is OVER:
                state, why = "overran", f"took more than {limit:.0f} s"
            run["rows"].append({"part": name, "what": current or name, "failed": why})
            # What fails before its first row would fail again.
            if state == "overran" or (current is None and not rows):
                break
    if state == "done" and any("failed" in row for row in run["rows"] if row["part"] == name):
        state = "failed"
    run["parts"][name] = {"state": state, "seconds": round(time.monotonic() - began, 1)}


def in_a_process(
    name: str, part: Part, asked: dict[str, Any], limit: float, told: Path, run: Run, keep: Callable[[], None]
) -> tuple[str, str | None, list[dict[str, Any]]]:
    """Why it ended (empty: it is done), the row it was at, and the rows it told, which are kept as they come."""
    given = json.dumps({"asked": asked, "part": attrs.asdict(part)})
    # The part's module may be anywhere that this program finds it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, __file__, "--child", given, str(told)]
    rows: list[dict[str, Any]] = []
    current: str | None = None
    read = 0

    def gather() -> None:
        nonlocal read, current
        with told.open(encoding="utf-8") as file:
            file.seek(read)
            text = file.read()
        whole, _, _ = text.rpartition("\n")
        if not whole:
            return
        read += len((whole + "\n").encode())
        for line in whole.splitlines():
            row = json.loads(line)
            if "begins" in row:
                current = row["begins"]
                continue
            rows.append(row)
            current = None
            run["rows"].append({"part": name, **row})
        keep()

    until = time.monotonic() + limit
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(
            command, stdout=said, stderr=said, env=environment, start_new_session=os.name != "nt"
        )  # fmt: skip
        why = ""
        try:
            while child.poll() is None:
                if time.monotonic() > until:
                    why = OVER
                    break
                time.sleep(0.1)
                gather()
        finally:
            end(child)
        gather()
        if not why and child.returncode:
            said.seek(0)
            lines = said.read().strip().splitlines()
            last = f": {lines[-1][:300]}" if lines else ""
            signalled = f"signal {-child.returncode}" if child.returncode < 0 else f"the code {child.returncode}"
            why = f"the process ended with {signalled}{last}"
    return why, current, rows


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a process with those that it started."""
    if os.name != "nt":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


# ------------------------------------------------------------------------------------------------- in the child


class Work:
    """What a part tells of its rows. done: those that are there already."""

    def __init__(self, told: Path, done: Iterable[str]) -> None:
        self._told, self._done = told, set(done)

    def is_left(self, what: str) -> bool:
        """Whether a row is to be measured; if so, it is at work from here on."""
        if what in self._done:
            return False
        self._write({"begins": what})
        return True

    def tell(self, what: str, row: Mapping[str, Any]) -> None:
        """A row, which is kept from then on."""
        self._done.add(what)
        self._write({"what": what, **row})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._told.open("a", encoding="utf-8") as file:
            # NaN is no JSON; what is no number is told as a word.
            plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
            file.write(json.dumps(plain, default=str) + "\n")


def child(given: dict[str, Any], told: Path) -> None:
    """One part, in its process."""
    asked = given["asked"]
    Part(**{**given["part"], "arguments": tuple(given["part"]["arguments"])}).run(asked, Work(told, asked["done"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]), Path(sys.argv[3]))
    else:
        typer.run(main)
