"""How far the weights of a model have been read, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from dit360_core.system.progress import Progress, underway

DOING = "Reading weights"

Sizes = Mapping[str, int]
_now: ContextVar[tuple[Progress, Sizes] | None] = ContextVar("dit360_reading", default=None)


@contextmanager
def reading(sizes: Sizes) -> Iterator[None]:
    """The parts that are read in this block, one after the other; sizes: part → bytes of its files."""
    with underway(DOING, sum(sizes.values())) as progress:
        token = _now.set((progress, sizes))
        try:
            yield
        finally:
            _now.reset(token)


def read_of(part: str, numbers: int) -> Callable[[int], None]:
    """What to call with the count of numbers that were read of a part, each time; numbers: those it has in all."""
    now = _now.get()
    if now is None:
        return _nobody
    progress, sizes = now
    each = sizes.get(part, 0) / max(1, numbers)
    return lambda count: progress.advance(each * count)


def _nobody(count: int) -> None:
    return None
