"""The head of a run's state file, which is looked at before anything heavy is loaded."""

from __future__ import annotations

import json
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


def check_state(path: Path) -> None:
    """Raises InputError for a file that is there and is no state of a run, so that it is told before weights are read.

    path: of the state.
    """
    check_name(path)
    if not path.exists():
        return
    try:
        with path.open("rb") as opened:
            header_of(path, opened)
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror or error}; choose another folder for the output."
        ) from error


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
