"""How far something slow has come that has nothing to show yet, such as a download: told to whoever wants to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Told = Callable[[str, int, int], None]
"""Called with (what is being done, bytes that are done, bytes in all); from any thread, one call at a time.

What it raises ends what is being done, and comes out of :func:`telling` as it is.
"""

DOWNLOADING = "Downloading"
"""With this word a description of a download begins."""
SELDOM = 0.1
"""Seconds between two calls; the first and the last are always made."""


class _Ended(BaseException):
    """The listener has raised something: libraries that catch every Exception let this pass."""


class _Listening:
    """Who listens, and what that raised."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.raised: BaseException | None = None

    def tell(self, doing: str, done: int, total: int) -> None:
        if self.raised is None:
            try:
                self.told(doing, done, total)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 (it is raised below, or at the end of telling)
                self.raised = error

    def check(self) -> None:
        if self.raised is not None:
            raise _Ended from self.raised


_listening: ContextVar[_Listening | None] = ContextVar("dit360_progress", default=None)


@contextmanager
def telling(told: Told | None) -> Iterator[None]:
    """In this block ``told`` hears of all that is slow. None: whoever heard before goes on hearing.

    Raises what ``told`` raises: at once, or at the end of the block where it could not be ended.
    """
    if told is None:
        yield
        return
    listening = _Listening(told)
    token = _listening.set(listening)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # Whatever became of it on its way: a plugin may have been blamed for it.
        if listening.raised is None:
            raise
        raise listening.raised from None
    finally:
        _listening.reset(token)
    if listening.raised is not None:
        raise listening.raised


def listener() -> Told | None:
    """Who wants to know, if anybody."""
    listening = _listening.get()
    return None if listening is None else listening.told


class Progress:
    """One slow thing on its way. Its methods may be called from any thread."""

    def __init__(self, doing: str, total: int, *, ends: bool = True) -> None:
        """doing: words, such as "Reading weights".
        total: bytes; 0: nothing is told.
        ends: whether what the listener raises ends it, or it has to be done to its end.
        """
        self.doing = doing
        self._total, self._done = total, 0.0
        self._ends = ends
        self._listening = _listening.get()
        self._lock = threading.Lock()
        self._next = 0.0
        if total:
            self._tell()

    def advance(self, count: float) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._reach(self._done + count)

    def reach(self, done: float) -> None:
        """So many bytes are done by now; never fewer than before, nor more than there are."""
        with self._lock:
            self._reach(done)

    def check(self) -> None:
        """Ends it if the listener wanted that, and somebody has passed over it."""
        if self._listening is not None and self._ends:
            self._listening.check()

    def finish(self) -> None:
        """All of it is done."""
        self.reach(self._total)

    def _reach(self, done: float) -> None:
        before, self._done = self._done, max(self._done, min(done, self._total))
        over = self._done == self._total
        if self._done > before and (over or time.monotonic() >= self._next):
            self._tell()
        self.check()

    def _tell(self) -> None:
        if self._listening is not None:
            self._next = time.monotonic() + SELDOM
            self._listening.tell(self.doing, round(self._done), self._total)
            self.check()


def in_words(doing: str, done: int, total: int) -> str:
    """What is being done, with the share that is done; empty once that is all."""
    return "" if done == total else f"{doing} {done / total:.0%}"


@contextmanager
def underway(doing: str, total: int, *, ends: bool = True) -> Iterator[Progress]:
    """Something slow that is done in this block, whole at its end unless it fails. The arguments are Progress's."""
    progress = Progress(doing, total, ends=ends)
    yield progress
    progress.finish()
