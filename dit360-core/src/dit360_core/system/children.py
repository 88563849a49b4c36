"""Python processes of our own in which something is tried that may end them."""

from __future__ import annotations

import os
import signal
import sys


def environment(**changes: str) -> dict[str, str]:
    """Variables for a process that can import what this one can; with ``-P``, not what lies in the current folder."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, **changes}


def ending(code: int) -> str:
    """How a process ended: the name of the signal, or its exit code."""
    if code >= 0:
        return f"exit code {code}"
    known = {int(number): number.name for number in signal.Signals}
    return known.get(-code, f"signal {-code}")
