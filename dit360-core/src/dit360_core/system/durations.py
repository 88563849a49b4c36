"""How long something takes, for people."""

from __future__ import annotations

import math

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def duration(seconds: float) -> str:
    """``40 ms``, ``0.4 s``, ``95 s``, ``12 min``, ``39 h``, ``5.2 days``: two or three digits, in a unit that fits."""
    if not math.isfinite(seconds):
        return "for ever"
    if 0 < seconds < 0.095:
        return f"{max(1, round(seconds * 1000))} ms"
    for unit, name, until in ((1.0, "s", 2 * MINUTE), (MINUTE, "min", 2 * HOUR), (HOUR, "h", 3 * DAY)):
        if seconds < until - unit / 2:
            return f"{_number(seconds / unit)} {name}"
    return f"{_number(seconds / DAY)} days"


def _number(count: float) -> str:
    # What is not rounded up to two digits keeps one behind the point.
    return f"{count:.1f}" if round(count, 1) < 10 else f"{count:.0f}"
