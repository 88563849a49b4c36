"""Paired measurements: every configuration in a process of its own, all of them in turn, round by round.

A machine that slows down meanwhile slows down every configuration of a round, so the ratio of two runs of the same
round is what is told, as a median over the rounds.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from dit360_core.cli.benching.varying import Configuration
from dit360_core.errors import Sentence
from dit360_core.system.atomic import write_atomic

STAGES = ("encode", "step", "sampling", "decode", "whole")
"""What is timed of each run. step: the median of its steps without the first, which holds what comes before it."""

_TO_END = 10.0
"""Seconds."""

Told = Callable[[str], None]
"""Called with what is being done."""


class Failed(Exception):
    """A configuration cannot be measured; the text is why, in one sentence."""


class Worker:
    """One process of :mod:`dit360_core.cli.benching.worker`, asked one thing at a time."""

    def __init__(self, configuration: Configuration, folder: Path) -> None:
        """folder: of this worker alone, for what it says on its way."""
        self._said = (folder / "stderr").open("wb+")
        # -P: the current folder must not lend its files as modules, which it would with -m.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dit360_core.cli.benching.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        self.configuration = configuration
        self._waits = True

    def ask(self, do: str, **more: Any) -> Any:
        """The answer to one request. Raises Failed if there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._waits = False
        # A process that has died is told by the answer that does not come.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._why_it_ended())
        answer = json.loads(line)
        self._waits = True
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["done"]

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        if code < 0:
            names = {s.value: s.name for s in signal.Signals}
            full = "; the system does that where memory runs out" if code == -9 else ""
            return f"Its process was ended by the signal {names.get(-code, -code)}{full}."
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"Its process ended with the code {code}{': ' + lines[-1] if lines else ''}."

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._waits and self._process.stdin is not None:
            # It ends by itself, and removes the files that it has for the time being, which a killed one cannot.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.stdin.close()
                self._process.wait(_TO_END)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            # What was not sent yet to a process that has died cannot be flushed.
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


@attrs.define(kw_only=True)
class Result:
    """What was found of one configuration."""

    configuration: Configuration
    picture: Path
    failed: str | None = None
    environment: dict[str, Any] | None = None
    loading_s: float | None = None
    used: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = attrs.field(factory=list)


def measure(
    compared: Sequence[Configuration], rounds: int, *, apart: bool = False, told: Told = lambda doing: None
) -> dict[str, Any]:
    """Measures the configurations, the first of which is what the others are compared with, and returns the report.

    apart: one after the other, each alone, so that only one is in memory at a time; ratios are then of medians.
    """
    with tempfile.TemporaryDirectory(prefix="dit360-bench-") as folder:
        results = []
        for i, one in enumerate(compared):
            own = Path(folder) / str(i)
            own.mkdir()
            results.append(Result(configuration=one, picture=own / "picture.npy"))
        for together in [[result] for result in results] if apart else [results]:
            _run(together, rounds, told)
        return _report(results, rounds, apart)


def _run(results: list[Result], rounds: int, told: Told) -> None:
    """Loads and warms up one after the other, then runs all in turns. Those that fail are left out from then on."""
    with contextlib.ExitStack() as stack:
        working: list[tuple[Result, Worker]] = []
        for result in results:
            told(f"Loading {result.configuration.name} …")
            worker = stack.enter_context(contextlib.closing(Worker(result.configuration, result.picture.parent)))
            with _noting(result):
                result.environment = worker.ask("describe", device=result.configuration.loading.device)
                loaded = worker.ask("load", **result.configuration.settings())
                result.loading_s, result.used = loaded["loading_s"], loaded["used"]
                # Not counted: it is the first that meets its kernels and sizes.
                worker.ask("run", picture=str(result.picture))
                working.append((result, worker))
        for i in range(rounds):
            for result, worker in in_turn(working, i):
                if result.failed is not None:
                    continue
                told(f"Round {i + 1} of {rounds}: {result.configuration.name} …")
                with _noting(result):
                    run = worker.ask("run")
                    result.runs.append({"round": i, "step": step_of(run["steps"]), **run})
        for result, worker in working:
            if result.failed is None:
                with _noting(result):
                    result.memory = worker.ask("memory")


def in_turn(working: Sequence[Any], number: int) -> Iterator[Any]:
    """The order of a round: each begins with another, and every second time around it is the other way about."""
    count = len(working)
    order = [working[(i + number) % count] for i in range(count)]
    yield from reversed(order) if count and number // count % 2 else order


@contextlib.contextmanager
def _noting(result: Result) -> Iterator[None]:
    try:
        yield
    except Failed as failed:
        result.failed = Sentence(str(failed))


def step_of(steps: Sequence[float]) -> float | None:
    """The median of a run's steps without the first, if there are more; None of a run that has none."""
    return statistics.median(steps[1:] or steps) if steps else None


# --------------------------------------------------------------------------------------------------- what came of it


def _report(results: list[Result], rounds: int, apart: bool) -> dict[str, Any]:
    base = results[0]
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": next((r.environment for r in results if r.environment), None),
        "settings": {"rounds": rounds, "apart": apart, "baseline": base.configuration.settings()},
        "configurations": [
            {
                "name": result.configuration.name,
                "changed": dict(result.configuration.changed),
                "settings": result.configuration.settings(),
                "failed": result.failed,
                "used": result.used,
                "loading_s": result.loading_s,
                "memory": result.memory,
                "medians": medians(result.runs),
                "ratios": {} if result is base else ratios(result.runs, base.runs, apart=apart),
                "picture": None if result is base else difference(result.picture, base.picture),
                "runs": result.runs,
            }
            for result in results
        ],
    }


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median of each stage, in seconds, and of what was used of the processor."""
    found = {name: [run[name] for run in runs if run[name] is not None] for name in (*STAGES, "cpu", "gpu")}
    return {name: statistics.median(values) for name, values in found.items() if values}


def ratios(
    mine: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], *, apart: bool
) -> dict[str, dict[str, Any]]:
    """Of each stage: the median and the quartiles of the ratios of the same round, of the rounds that both ran.

    apart: the ratio of the medians instead, which has no quartiles.
    """
    if apart:
        own, theirs = medians(mine), medians(base)
        return {
            name: {"median": own[name] / theirs[name], "quartiles": None}
            for name in STAGES
            if own.keys() & theirs & {name}
        }
    by_round = {run["round"]: run for run in base}
    found = {}
    for name in STAGES:
        pairs = [(run[name], by_round[run["round"]][name]) for run in mine if run["round"] in by_round]
        each = [own / other for own, other in pairs if own is not None and other]
        if each:
            low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
            found[name] = {"median": middle, "quartiles": [low, high]}
    return found


def difference(picture: Path, base: Path) -> dict[str, Any] | None:
    """Whether two pictures are the same bit by bit, or else their PSNR in dB; None of another size, or of none."""
    if not (picture.exists() and base.exists()):
        return None
    mine, other = np.load(picture), np.load(base)
    if mine.shape != other.shape:
        return None
    # Row by row, since the difference of two large pictures in float64 would take gigabytes.
    rows = zip(mine, other, strict=True)
    off = math.fsum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in rows) / mine.size
    return {"same": off == 0, "psnr": 10 * math.log10(255**2 / off) if off else None}


def write_report(report: Mapping[str, Any], path: Path, *, force: bool) -> None:
    """Saves a report as JSON, whole or not at all."""
    with write_atomic(path, force=force) as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False).encode() + b"\n")
