"""Memory that runs out, told in one sentence instead of an allocator's traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dit360_core.errors import Dit360Error

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemory(Dit360Error):
    """A device has too little memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an allocator's, on any device; the CPU's is a plain RuntimeError."""
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError", "OutOfMemory")
    return named or (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS))


@contextlib.contextmanager
def told_when_full(doing: str, device: str) -> Iterator[None]:
    """Turns an allocator's error in this block into OutOfMemory, which says what was being done and what would help."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, OutOfMemory):
            raise
        help_ = "close other programs or use a smaller width"
        if device != "cpu":
            help_ = (
                "use offload=model or offload=sequential, a smaller width, or attention_slice_size with eager attention"
            )
        raise OutOfMemory(f"There is too little memory on the {device} for {doing}; {help_}.") from error
