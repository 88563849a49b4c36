"""Makes of what somebody may write for an option what is kept of it."""

from __future__ import annotations

import os
from typing import Any

from dit360_core.options.checking import is_finite


def as_text(value: Any) -> Any:
    """A number as text: vram=8 is as good as "8".

    value: anything; what is no number stays as it is.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if is_finite(value) or isinstance(value, float) else "inf"
    return value


def as_budget(value: Any) -> Any:
    """Memory as text; None for "none", which takes back what a file of defaults says."""
    text = as_text(value)
    return None if isinstance(text, str) and text.strip().lower() == "none" else text


def as_loras(value: Any) -> Any:
    """One LoRA or several as texts ``FILE[:STRENGTH]``.

    value: texts, paths, or pairs of a name and a strength; what is none of these stays, and is refused when checked.
    """
    if value is None:
        return ()
    every = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(every, list | tuple):
        return every
    return tuple(map(_as_lora, every))


def _as_lora(one: Any) -> Any:
    pair = isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str | os.PathLike)
    if pair and not (isinstance(one[1], int) and abs(one[1]) > 10**9):  # longer ones Python may refuse to write
        return f"{os.fspath(one[0])}:{one[1]}"
    return os.fspath(one) if isinstance(one, os.PathLike) else one
