"""Attention kernels tried in a process of their own, which a kernel that crashes ends instead of ours.

``python -m dit360_core.trial ASKED`` is that process: it is given what to try as JSON, and writes a line before and one
after each.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import IO, Any

import attrs

from dit360_core.children import ending, environment
from dit360_core.offers import AttentionNeed, Reason

TIMED_ON_CPU = 1024
"""Tokens of the calls that are timed on a CPU, where 8832 of them take seconds and eager attention 14 GB."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What came out of trying a kernel.

    error, allowed: the largest error against float32 and its bound, in units of the largest output. seconds: one call.
    of_sdpa: how much faster than PyTorch's own attention, 1 being as fast. length: tokens of that call. None: unknown.
    """

    reasons: tuple[Reason, ...] = ()
    error: float | None = None
    allowed: float | None = None
    seconds: float | None = None
    of_sdpa: float | None = None
    length: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The numbers, without the reasons."""
        return attrs.asdict(self, filter=lambda field, value: field.name != "reasons")


def try_apart(
    addresses: Iterable[str], need: AttentionNeed, *, timed: bool = False, patience: float = 180.0
) -> dict[str, Verdict]:
    """``distribution:name`` → verdict, for installed kernels that nothing was found against yet.

    timed: measures their speed too. patience: seconds after which one that does not return is given up; one that is
    compiled at its first call takes a minute.
    """
    verdicts: dict[str, Verdict] = {}
    left = list(addresses)
    while left:
        ended = _one_process(left, need, timed, patience)
        verdicts.update(ended.verdicts)
        lost = [ended.tried] if ended.tried in left and ended.tried not in verdicts else []
        if not lost and not ended.verdicts:
            lost = left  # it ended before it came to any of them
        verdicts.update({address: Verdict(reasons=(_lost(ended.how, address),)) for address in lost})
        left = [address for address in left if address not in verdicts]
    return verdicts


def _lost(how: str, address: str) -> Reason:
    whose = address.partition(":")[0]
    return Reason("probe_failed", f"a trial run {how}", f"update {whose} and tell its author")


@attrs.frozen
class _Ended:
    """A process that is over: its verdicts, the address that it tried last, and how it ended."""

    verdicts: dict[str, Verdict]
    tried: str | None
    how: str


def _one_process(addresses: list[str], need: AttentionNeed, timed: bool, patience: float) -> _Ended:
    asked = json.dumps({"addresses": addresses, "need": attrs.asdict(need), "timed": timed})
    verdicts: dict[str, Verdict] = {}
    tried, late = None, threading.Event()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "dit360_core.trial", asked],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            env=environment(),
        ) as process,
    ):
        try:
            while line := _next_line(process, patience, late):
                record = json.loads(line)
                tried = record["address"]
                if "verdict" in record:
                    verdicts[tried] = _verdict(record["verdict"])
            code = process.wait()
        finally:
            process.kill()
        said.seek(0)
        how = f"did not return within {patience:.0f} s" if late.is_set() else _ending(code, said.read())
    return _Ended(verdicts, tried, how)


def _next_line(process: subprocess.Popen[str], patience: float, late: threading.Event) -> str:
    """A whole line of what a process says, or nothing when it is over, which it is made to be after ``patience``."""

    def give_up() -> None:
        late.set()
        process.kill()

    assert process.stdout is not None
    watch = threading.Timer(patience, give_up)
    watch.daemon = True
    watch.start()
    try:
        line = process.stdout.readline()
    finally:
        watch.cancel()
    return line if line.endswith("\n") else ""


def _ending(code: int, said: str) -> str:
    # Python ends with 1 after an exception, and the last line names it.
    last = said.strip().splitlines()[-1:] if code == 1 else []
    return f"ended the process ({last[0] if last else ending(code)})"


def _verdict(told: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**told, "reasons": tuple(Reason(**reason) for reason in told["reasons"])})


# ------------------------------------------------------------------------------------------------ the other process


def _serve(asked: Mapping[str, Any], out: IO[str]) -> None:
    from dit360_core.errors import InputError
    from dit360_core.machine import Machine
    from dit360_core.registry import default_registry

    need = AttentionNeed(**asked["need"])
    try:
        machine = Machine.by_torch(need.device)
    except InputError as error:
        # It was found without PyTorch, which sees it otherwise.
        refused = Verdict(reasons=(Reason("device", str(error)),))
        for address in asked["addresses"]:
            print(json.dumps({"address": address, "verdict": attrs.asdict(refused)}), file=out, flush=True)
        return
    registry = default_registry()
    for address in asked["addresses"]:
        print(json.dumps({"address": address}), file=out, flush=True)
        verdict = _tried(address, need, registry, machine, asked["timed"])
        print(json.dumps({"address": address, "verdict": attrs.asdict(verdict)}), file=out, flush=True)
        if need.device != "cpu" and any(reason.code == "probe_failed" for reason in verdict.reasons):
            # An illegal access leaves a device on which nothing works any more: the next one gets a process of its own.
            return


def _tried(address: str, need: AttentionNeed, registry: Any, machine: Any, timed: bool) -> Verdict:
    from dit360_core.memory import is_out_of_memory
    from dit360_core.plan import try_out
    from dit360_core.probe import closeness, refusals, speed

    found: dict[str, float | None] = {}

    def probe(attend: Any, machine: Any, need: Any) -> Iterable[Reason]:
        reasons = refusals(attend, machine, need)
        if reasons:
            return reasons
        close = closeness(attend, need)
        # JSON has no NaN.
        found.update(error=close.error if math.isfinite(close.error) else None, allowed=close.allowed)
        if timed and not close.reasons:
            length = min(need.length, TIMED_ON_CPU) if need.device == "cpu" else need.length
            try:
                seconds, of_sdpa = speed(attend, attrs.evolve(need, length=length))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return ()  # in slices it may fit: it is no worse for that
            found.update(seconds=seconds, of_sdpa=of_sdpa, length=length)
        return close.reasons

    entry = registry.find("attention", address)[0]
    _, reasons = try_out(entry, machine, need, lambda offer: offer.load(), probe)
    return Verdict(reasons=reasons, **found)  # type: ignore[arg-type]


def _main() -> None:
    asked = json.loads(sys.argv[1])
    # Whatever plugins and libraries print goes to stderr; only our lines go to the one who asked.
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _serve(asked, ours)


if __name__ == "__main__":
    _main()
