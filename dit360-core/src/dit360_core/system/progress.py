"""How far something slow has come that has nothing to show yet, such as a download: told to whoever wants to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Told = Callable[[str, int, int], None]
"""Called with (what is being done, bytes that are done, bytes in all); from any thread, one call at a time.

What it raises ends what is being done.
"""

SELDOM = 0.1
"""Seconds between two calls; the first and the last are always made."""

_listener: ContextVar[Told | None] = ContextVar("dit360_progress", default=None)


@contextmanager
def telling(told: Told | None) -> Iterator[None]:
    """In this block ``told`` hears of all that is slow. None: whoever heard before goes on hearing."""
    if told is None:
        yield
        return
    token = _listener.set(told)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Told | None:
    """Who wants to know, if anybody."""
    return _listener.get()


class Progress:
    """One slow thing on its way. ``advance`` may be called from any thread."""

    def __init__(self, doing: str, total: int) -> None:
        """doing: words, such as "Reading weights". total: bytes."""
        self.doing, self.total = doing, total
        self.done: float = 0
        self._told = listener()
        self._lock = threading.Lock()
        self._next = 0.0
        if self._told is not None and total:
            self._told(doing, 0, total)

    def advance(self, count: float) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._reach(self.done + count)

    def reach(self, done: float) -> None:
        """So many bytes are done by now; never fewer than before, nor more than there are."""
        with self._lock:
            self._reach(done)

    def _reach(self, done: float) -> None:
        before, self.done = self.done, max(self.done, min(done, self.total))
        if self._told is None or self.done == before:  # nobody listens, or nothing is new
            return
        over = self.done == self.total
        if not over and (now := time.monotonic()) < self._next:
            return
        self._next = 0.0 if over else now + SELDOM
        self._told(self.doing, round(self.done), self.total)


@contextmanager
def underway(doing: str, total: int) -> Iterator[Progress]:
    """Something slow that is done in this block, whole at its end unless it fails."""
    progress = Progress(doing, total)
    yield progress
    progress.reach(total)
