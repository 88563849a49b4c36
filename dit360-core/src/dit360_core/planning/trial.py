"""Attention kernels tried in a process of their own, which a kernel that crashes ends instead of ours.

``python -m dit360_core.planning.trial`` is that process: it is given what to try as a line of JSON, and writes a line
before and one after each. On Linux it imports PyTorch once, tries nothing itself and does not touch a GPU: a fork of
it tries them, and when a kernel ends that, the next fork has nothing to import.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

import attrs

from dit360_core.errors import InputError, Reason, marked
from dit360_core.plugins.choosing import try_out
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.children import ending, environment
from dit360_core.system.machine import Machine
from dit360_core.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from dit360_core.planning.probe import Trials

TIMED_ON_CPU = 512
"""Tokens of the calls that are timed on a CPU, where 8832 of them take seconds and eager attention 14 GB."""

_FORKS = sys.platform == "linux"
"""Elsewhere there is no fork, or the system's own libraries do not bear it."""

_IMPORTS = 180.0
"""Seconds that the imports may take where they are no part of a trial."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What came out of trying a kernel.

    error, allowed: the largest error against float32 and its bound, in units of the largest output.
    seconds: one call.
    of_sdpa: how much faster than PyTorch's own attention, 1 being as fast.
    length: tokens of that call. None: unknown.
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

    timed: measures their speed too.
    patience: seconds after which one that does not return is given up; one that is compiled at its first call takes a
    minute.
    """
    verdicts: dict[str, Verdict] = {}
    left = list(addresses)
    with _Other(need, timed, patience) as other:
        while left:
            ended = other.tries(left)
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


class _Other:
    """The other process: started when there is something to try in it, and over when this context is."""

    def __init__(self, need: AttentionNeed, timed: bool, patience: float) -> None:
        self._asked = {"need": attrs.asdict(need), "timed": timed}
        self._patience = patience
        self._process: subprocess.Popen[str] | None = None
        self._fork: int | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Other:
        # What is said is appended, wherever we have read to.
        self._said = self._open.enter_context(tempfile.TemporaryFile("a+b"))
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            self._kill(all_of_it=True)
        self._open.close()  # it is told that nothing comes any more, and waited for

    def tries(self, addresses: list[str]) -> _Ended:
        """Tries kernels until all are done, or one ends the process in which they are tried."""
        process, before = self._started(), self._said.seek(0, os.SEEK_END)
        verdicts: dict[str, Verdict] = {}
        tried, code, late = None, None, threading.Event()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is over; its exit code tells
            os.write(process.stdin.fileno(), json.dumps({**self._asked, "addresses": addresses}).encode() + b"\n")
        while code is None and (line := self._next_line(process, late)):
            record = json.loads(line)
            self._fork = record.get("fork", self._fork)
            code = record.get("ended")
            tried = record.get("address", tried)
            if "verdict" in record:
                verdicts[record["address"]] = _verdict(record["verdict"])
        if code is None:
            code = process.wait()
        self._said.seek(before)
        said = self._said.read().decode(errors="replace")
        how = f"did not return within {self._patience:.0f} s" if late.is_set() else _ending(code, said)
        return _Ended(verdicts, tried, how)

    def _started(self) -> subprocess.Popen[str]:
        self._fork = None
        if self._process is None or self._process.poll() is not None:
            self._process = self._open.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "dit360_core.planning.trial"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    text=True,
                    encoding="utf-8",
                    env=environment(),
                )
            )
        return self._process

    def _next_line(self, process: subprocess.Popen[str], late: threading.Event) -> str:
        """A whole line of what it says, or nothing when it is over, which a trial is made to be after ``patience``."""

        def give_up() -> None:
            late.set()
            self._kill()

        assert process.stdout is not None
        importing = _FORKS and self._fork is None
        watch = threading.Timer(max(self._patience, _IMPORTS) if importing else self._patience, give_up)
        watch.daemon = True
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
        return line if line.endswith("\n") else ""

    def _kill(self, all_of_it: bool = False) -> None:
        if self._fork is not None:
            # It keeps this number until something else is asked for, even when it is over.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._fork, signal.SIGKILL)
        if self._process is not None and (all_of_it or self._fork is None):
            self._process.kill()


def _ending(code: int, said: str) -> str:
    # Python ends with 1 after an exception, and the last line names it.
    last = said.strip().splitlines()[-1:] if code == 1 else []
    return f"ended the process ({last[0] if last else ending(code)})"


def _written(verdict: Verdict) -> dict[str, Any]:
    # With the marks of sentences, which the other process puts into its own.
    return attrs.asdict(
        verdict, value_serializer=lambda _, __, value: marked(value) if isinstance(value, str) else value
    )


def _verdict(told: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**told, "reasons": tuple(Reason(**reason) for reason in told["reasons"])})


# ------------------------------------------------------------------------------------------------ the other process


def _serve(asked: Mapping[str, Any], out: IO[str]) -> None:
    from dit360_core.planning.probe import Trials

    need = AttentionNeed(**asked["need"])
    try:
        machine = Machine.by_torch(need.device)
    except InputError as error:
        # It was found without PyTorch, which sees it otherwise.
        refused = Verdict(reasons=(Reason("device", error.sentence),))
        for address in asked["addresses"]:
            print(json.dumps({"address": address, "verdict": _written(refused)}), file=out, flush=True)
        return
    registry, trials = default_registry(), Trials(need, several=True)
    for address in asked["addresses"]:
        print(json.dumps({"address": address}), file=out, flush=True)
        verdict = _tried(address, trials, registry, machine, asked["timed"])
        print(json.dumps({"address": address, "verdict": _written(verdict)}), file=out, flush=True)
        if need.device != "cpu" and any(reason.code == "probe_failed" for reason in verdict.reasons):
            # An illegal access leaves a device on which nothing works any more: the next one gets a process of its own.
            return


def _tried(address: str, trials: Trials, registry: Registry, machine: Machine, timed: bool) -> Verdict:
    from dit360_core.planning.probe import closeness, refusals, speed

    found: dict[str, float | None] = {}
    need = trials.need

    def probe(attend: Any, machine: Any, need: Any) -> Iterable[Reason]:
        reasons = refusals(attend, machine, need)
        if reasons:
            return reasons
        close = closeness(attend, need, trials)
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
    # Whatever plugins and libraries print goes to stderr, and they have nothing to read; our lines are for us alone.
    given, ours = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    asked = _forked(given, ours) if _FORKS else json.loads(given.readline())
    given.close()
    if asked:
        _serve(asked, ours)


def _forked(given: IO[str], out: IO[str]) -> Any:
    """What a fork is to try, in that fork; nothing, in the process that makes them, when nothing is asked any more."""
    importlib.import_module("dit360_core.planning.probe")  # and PyTorch with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked is told as well, and ends us
    fork = 0
    for line in given:
        if fork:
            os.waitpid(fork, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries of numbers have threads, and are made for this
            fork = os.fork()
        if not fork:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return json.loads(line)
        print(json.dumps({"fork": fork}), file=out, flush=True)
        end = os.waitid(os.P_PID, fork, os.WEXITED | os.WNOWAIT)
        assert end is not None
        code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        print(json.dumps({"ended": code}), file=out, flush=True)
    if fork:
        os.waitpid(fork, 0)
    return None


if __name__ == "__main__":
    _main()
