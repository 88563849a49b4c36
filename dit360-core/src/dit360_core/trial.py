"""Attention kernels tried in a process of their own, which a kernel that crashes ends instead of ours.

``python -m dit360_core.trial`` is that process: it reads what to try as JSON and writes a line before and after each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

import attrs

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
    addresses: Iterable[str], need: AttentionNeed, *, timed: bool = False, patience: float = 300.0
) -> dict[str, Verdict]:
    """``distribution:name`` → verdict, for installed kernels that nothing was found against yet.

    timed: measures their speed too. patience: seconds after which one that does not return is given up.
    """
    verdicts: dict[str, Verdict] = {}
    left = list(addresses)
    while left:
        found, tried, end = _one_process(left, need, timed, patience)
        verdicts.update(found)
        left = [address for address in left if address not in verdicts]
        if left:
            lost = tried if tried in left else left[0]
            verdicts[lost] = Verdict(reasons=(Reason("probe_failed", f"a trial run {end}"),))
            left.remove(lost)
    return verdicts


def _one_process(
    addresses: list[str], need: AttentionNeed, timed: bool, patience: float
) -> tuple[dict[str, Verdict], str | None, str]:
    """Verdicts until the process ends, the address tried last, and how it ended."""
    asked = json.dumps({"addresses": addresses, "need": attrs.asdict(need), "timed": timed})
    # What this process can import, the other can too.
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dit360_core.trial"],
            input=asked,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": paths},
            timeout=patience * len(addresses),
            check=False,
        )
        out, end = done.stdout, _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
        out = told if isinstance(told, str) else told.decode("utf-8", "replace")
        end = f"did not return within {patience * len(addresses):.0f} s"
    found, tried = {}, None
    for line in out.splitlines():
        record = json.loads(line)
        if "verdict" in record:
            found[record["address"]] = _verdict(record["verdict"])
        else:
            tried = record["address"]
    return found, tried, end


def _ending(code: int, said: str) -> str:
    if code < 0:
        return f"ended the process ({signal.Signals(-code).name})"
    # Python ends with 1 after an exception, and the last line names it.
    last = said.strip().splitlines()[-1:] if code == 1 else []
    return f"ended the process ({last[0] if last else f'exit code {code}'})"


def _verdict(told: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**told, "reasons": tuple(Reason(**reason) for reason in told["reasons"])})


# ------------------------------------------------------------------------------------------------ the other process


def _serve(asked: Mapping[str, Any], out: IO[str]) -> None:
    from dit360_core.machine import Machine
    from dit360_core.registry import default_registry

    need = AttentionNeed(**asked["need"])
    registry, machine = default_registry(), Machine.detect(need.device)
    for address in asked["addresses"]:
        print(json.dumps({"address": address}), file=out, flush=True)
        verdict = _tried(address, need, registry, machine, asked["timed"])
        print(json.dumps({"address": address, "verdict": attrs.asdict(verdict)}), file=out, flush=True)


def _tried(address: str, need: AttentionNeed, registry: Any, machine: Any, timed: bool) -> Verdict:
    from dit360_core.plan import try_out
    from dit360_core.probe import closeness, refusals, speed

    found: dict[str, float] = {}

    def probe(attend: Any, machine: Any, need: Any) -> Iterable[Reason]:
        reasons = refusals(attend, machine, need)
        if reasons:
            return reasons
        close = closeness(attend, need)
        found.update(error=close.error, allowed=close.allowed)
        if timed and not close.reasons:
            length = min(need.length, TIMED_ON_CPU) if need.device == "cpu" else need.length
            seconds, of_sdpa = speed(attend, attrs.evolve(need, length=length))
            found.update(seconds=seconds, of_sdpa=of_sdpa, length=length)
        return close.reasons

    entry = registry.find("attention", address)[0]
    _, reasons = try_out(entry, machine, need, lambda offer: offer.load(), probe)
    return Verdict(reasons=reasons, **found)  # type: ignore[arg-type]


def _main() -> None:
    asked = json.load(sys.stdin)
    # Whatever plugins and libraries print goes to stderr; only our lines go to the one who asked.
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _serve(asked, ours)


if __name__ == "__main__":
    _main()
