"""How the command line speaks: errors in one sentence with exit code 2, warnings on stderr, tables."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from dit360_core.cli.wording import current, with_its_file
from dit360_core.errors import Dit360Error
from dit360_core.errors.log import marked_message

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143


# What moves the cursor, recolours the terminal, or turns the direction of reading; line ends and tabs are harmless.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text of others (a picture's metadata, a file's name) as a terminal may show it; in JSON it means the same."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Terminated(KeyboardInterrupt):
    """SIGTERM. Unwinds the stack as Ctrl-C does; a SystemExit could be taken for one of a plugin, and survived."""


def show_what_can_be_shown() -> None:
    """A terminal or a pipe that cannot show a sign (cp1252 on Windows) gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def apart_from_stdout() -> Iterator[None]:
    """What is printed in this block goes to stderr, by Python or a C library: what follows is for programs."""
    saved = -1
    with contextlib.suppress(OSError, ValueError, AttributeError):  # one of them is closed, or there is none
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved >= 0:
            # What C has buffered would come after all.
            with contextlib.suppress(Exception):
                import ctypes  # not every build of Python has it

                ctypes.CDLL(None).fflush(None)
            os.dup2(saved, 1)
            os.close(saved)


@contextlib.contextmanager
def telling_of_stdout() -> Iterator[None]:
    """Runs the whole program: that its output cannot be written becomes one sentence. Raises SystemExit for it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or not _is_lost(sys.stdout):
            raise
        why = error.strerror or error
        with contextlib.suppress(OSError):
            sys.stderr.write(
                f"Error: The output cannot be written ({why}); free what is full, or write it elsewhere.\n"
            )
        # Python flushes it once more at its end, and would tell of the same error in its own way.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        sys.exit(BAD_INPUT)


def _is_lost(stream: Any) -> bool:
    """Whether a stream takes nothing any more. One that does gets an empty line, before a traceback."""
    try:
        stream.write("\n")  # one that is not buffered has forgotten by now what it could not write
        stream.flush()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def reporting(level: int = logging.WARNING) -> Iterator[Console]:
    """Runs a command's body: our errors become one sentence, log lines from ``level`` on go to stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    log = logging.getLogger("dit360")
    handler = _Lines(console)
    log.addHandler(handler)
    log.setLevel(level)
    try:
        with warnings.catch_warnings():
            # Pillow's and others' warnings, without the line of code that gave them.
            warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)
            yield console
    except Dit360Error as error:
        console.print(harmless(f"Error: {with_its_file(error.sentence)}"), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt as interrupt:
        console.print("Interrupted; no half-written file is left.")
        raise typer.Exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from interrupt
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    """One line of the terminal for each record, above a progress bar if there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._worded = current()

    def emit(self, record: logging.LogRecord) -> None:
        wanting = record.levelno >= logging.WARNING
        told = self._worded(marked_message(record))
        if wanting:
            told = f"{record.levelname.capitalize()}: {told}"
        self._console.print(harmless(told), style="yellow" if wanting else "dim", markup=False, soft_wrap=True)
