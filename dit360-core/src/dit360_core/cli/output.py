"""How the command line speaks: errors in one sentence with exit code 2, warnings on stderr, tables."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from dit360_core.errors import Dit360Error

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
INTERRUPTED = 130


@contextlib.contextmanager
def told(verbose: bool = False) -> Iterator[Console]:
    """Runs a command's body: our errors become one sentence, ours and the plugins' warnings go to stderr."""
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True, highlight=False)
    log = logging.getLogger("dit360")
    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield console
    except Dit360Error as error:
        console.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt as interrupt:
        console.print("Interrupted; nothing was written.")
        raise typer.Exit(INTERRUPTED) from interrupt
    finally:
        log.removeHandler(handler)
