"""Memory to keep to, as it is written."""

from __future__ import annotations

import math

from dit360_core.errors import InputError, named


def budget_of(given: str, name: str = "vram") -> int | None:
    """Bytes of a value of ``vram`` or ``ram``, None for ``auto``.

    given: ``auto``, or GiB from 0.5 to 4096, with or without that unit.
    name: of the option, for the error.

    Raises InputError for anything else.
    """
    if given.strip().lower() == "auto":
        return None
    try:
        size = float(given.strip().lower().removesuffix("gib").removesuffix("gb").removesuffix("g"))
    except ValueError:
        size = math.nan
    if not 0.5 <= size <= 4096:
        raise InputError(
            f"{named(name)} is {given!r}, but must be auto, or GiB from 0.5 to 4096, such as 8, 12, 16, 24 or 48."
        )
    return int(size * 2**30)
