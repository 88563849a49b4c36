"""What keeps a plugin from harming more than itself while it is imported and asked."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MOST_OFFERS = 1000
"""Of one hook. One that never stops yielding must not take the program with it."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The folder that the program is in, what signals do, and torch's settings are as before, whatever was called.

    A picture would be saved elsewhere, Ctrl-C would do nothing, and everybody would compute in another precision.
    """
    try:
        folder: str | None = os.getcwd()
    except OSError:
        folder = None  # it was removed
    ours = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if ours else {}
    torch: Any = sys.modules.get("torch")
    # Not there yet, or still importing: whoever asks later has torch's own.
    numbers = (torch.get_default_dtype(), torch.get_float32_matmul_precision()) if hasattr(torch, "compile") else None
    try:
        yield
    finally:
        if numbers is not None:
            if torch.get_default_dtype() is not numbers[0]:
                torch.set_default_dtype(numbers[0])
            if torch.get_float32_matmul_precision() != numbers[1]:
                torch.set_float32_matmul_precision(numbers[1])
        with contextlib.suppress(OSError):
            if folder is not None and os.getcwd() != folder:
                os.chdir(folder)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)


def offered(answer: Any, failed: Any) -> Iterator[Any]:
    """The values that a hook gives, up to where it raises or becomes too many, of which ``failed`` is told."""
    given = 0
    try:
        for value in itertools.islice(iter(answer), MOST_OFFERS + 1):
            given += 1
            if given > MOST_OFFERS:
                raise ValueError(f"it offers more than {MOST_OFFERS}; the rest is left out")
            yield value
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin's, whatever it is
        failed(error)


def check_readable(offer: Any) -> None:
    """Raises what a property of an offer of somebody's own class raises, or TypeError for what cannot be compared."""
    for name in ("name", "api", "priority", "summary", "requires", "install", "family"):
        getattr(offer, name, None)
    if not isinstance(offer.name, str) or not isinstance(offer.summary, str):
        raise TypeError("its name and summary must be text")
    rank = tuple(float(part) for part in offer.rank)
    if any(part != part for part in rank):
        raise TypeError("its rank holds a NaN")


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dit360"


class Arrivals:
    """Notes in a file which plugin is at work, so that the next start can tell of one that ended this one.

    Files are locked while their process lives, whatever other processes there are. Where files cannot be locked or
    written, nothing is noted.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: int | None = None
        self._path: Path | None = None

    def ended(self) -> list[str]:
        """``distribution:entry point`` of the plugins that were at work when earlier starts ended; told once."""
        found: list[str] = []
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            import fcntl  # there is none on Windows

            folder = self._folder or _state_folder()
            for path in sorted(folder.glob("importing-*")) if folder.is_dir() else ():
                with contextlib.suppress(OSError):
                    file = os.open(path, os.O_RDWR)
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        name = os.read(file, 500).decode(errors="replace").strip()
                        path.unlink()
                        if name and name not in found:
                            found.append(name)
                    finally:
                        os.close(file)
        return found

    @contextlib.contextmanager
    def noted(self, names: Iterable[str]) -> Iterator[Any]:
        """Gives a function to be called with the name of each plugin before it is imported or asked."""
        names = list(names)
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            if names:
                self._open()
        try:
            yield self._note
        finally:
            self._close()

    def _open(self) -> None:
        import fcntl  # as above

        folder = self._folder or _state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"importing-{os.getpid()}-{threading.get_ident()}"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path = path

    def _note(self, name: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, name.encode()[:500], 0)

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                if self._path is not None:
                    self._path.unlink()
                os.close(self._file)
            self._file = None
