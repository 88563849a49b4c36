"""The head of a run's state file, which is looked at before anything heavy is loaded."""

from __future__ import annotations

import itertools
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dit360_core.errors import InputError
from dit360_core.system.atomic import check_name

MARK = b"dit360 state 2\n"
_OLDER = (b"dit360 state 1\n",)
LONGEST = 2**20
"""Bytes of what a file says of its run."""
DRAWN = "drawn"
"""What is told of a run beside what was asked: its seed, where none was given."""


SOURCE = "source"
"""What is told of the picture that is made larger; of the larger one "picture" is told."""
RECORD = struct.Struct("<QI")
"""Before each tensor: its bytes, and their CRC-32."""

_CHOSEN = {
    "attention": ("used", "distribution", "version"),
    "quantization": ("used", "distribution", "version", "parts"),
}
"""What of a plugin's report decides about numbers: what else was passed over, and why, does not."""


def check_state(path: Path, told: Mapping[str, Any] | None = None) -> None:
    """Raises InputError for a file that no run can go on from, so that it is told before weights are read.

    That is one that is no state of a run, or that another program is writing.

    path: of the state; a file that is not there is none.
    told: what is known of the run already, in JSON, if anything: the state of another one is refused, too.
    """
    check_name(path)
    if not path.exists():
        return
    try:
        with path.open("rb") as opened:
            alone(path, opened)
            before = header_of(path, opened)
            # Where no answer is kept nothing is lost.
            kept = before is not None and len(list(itertools.islice(records(opened), 2))) == 2
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror or error}; choose another folder for the output."
        ) from error
    if before is not None and told is not None and kept:
        now = json.loads(json.dumps(told, default=str))
        check_same(path, before["told"], now, only=now)


def alone(path: Path, opened: IO[bytes]) -> None:
    """Raises InputError if another program has the file."""
    try:
        import fcntl  # there is none on Windows, where nobody is kept away
    except ImportError:
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"Another program is writing {path}; wait for it, or name another output.") from error


def check_same(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, only: Mapping[str, Any] | None = None
) -> None:
    """Raises InputError, which names what is different, for the state of another run.

    before, now: what is told of the run that the state is of, and of this one.
    only: compare no other names than these; None: all.
    """
    names = {*before, *now} if only is None else set(only)
    # Older states do not tell of the smaller picture, nor does it decide where the larger one is told of.
    names -= {SOURCE} if only is None or SOURCE not in before else set()
    other = sorted(name for name in names if _deciding(name, before) != _deciding(name, now))
    if other:
        words = ["picture" if name == SOURCE else name for name in other]
        raise InputError(
            f"{path} is the state of a run that was stopped, of another {' and '.join(words[:3])}; run the same as "
            "then to go on, or delete it to begin anew."
        )


def _deciding(name: str, told: Mapping[str, Any]) -> Any:
    """What is told under a name, without what decides about no number."""
    found = told.get(name)
    if name not in _CHOSEN or not isinstance(found, Mapping):
        return found
    return {key: found.get(key) for key in _CHOSEN[name]}


def head_end(opened: IO[bytes]) -> int:
    """Where the head of a state ends."""
    opened.seek(len(MARK))
    return len(MARK) + len(opened.readline(LONGEST))


def records(opened: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Where the tensors of a state lie, and their bytes: those that are whole.

    opened: the file, of which :func:`header_of` has found a head.
    """
    at, end = head_end(opened), opened.seek(0, os.SEEK_END)
    while at + RECORD.size <= end:
        opened.seek(at)
        size, checksum = RECORD.unpack(opened.read(RECORD.size))
        at += RECORD.size
        if at + size > end or zlib.crc32(opened.read(size)) != checksum:
            return
        yield at, size
        at += size


def header_of(path: Path, opened: IO[bytes]) -> dict[str, Any] | None:
    """What a file says of its run; None: nothing, since it was stopped before."""
    opened.seek(0)
    start = opened.read(len(MARK))
    if not start or (start != MARK and MARK.startswith(start)):
        return None
    if start in _OLDER:
        raise InputError(f"{path} is the state of an older version of dit360; delete it to begin anew.")
    line = opened.readline(LONGEST)
    if start == MARK and not line.endswith(b"\n"):
        return None
    try:
        if start != MARK:
            raise ValueError("it begins otherwise")
        found = json.loads(line)
        if not isinstance(found["told"], dict) or not isinstance(found[DRAWN], dict):
            raise ValueError("it tells of no run")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no state of a run ({error}); delete it, or name another output.") from error
    return dict(found)
