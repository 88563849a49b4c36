"""Bars of what is being made: a model that is loaded, the steps of a picture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dit360_core.system.memory import gib
from dit360_core.system.progress import DOWNLOADING, in_words, telling

LARGE = 2**28
"""Bytes of a download that is worth a line where no bar is shown."""


class LoadingBar:
    """What is being downloaded, read or moved, with the time that is left.

    A console that is no terminal is told once of each large download.
    """

    def __init__(self, console: Console, model: str) -> None:
        self._console = console
        words = SpinnerColumn(), TextColumn("{task.description}", markup=False)
        self._whole = *words, BarColumn(), DownloadColumn(binary_units=True), TextColumn("left"), TimeRemainingColumn()
        # Until there is something to tell, its name is all.
        self._bar = Progress(*words, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(f"Loading {model} …", total=None)
        self._now = "", 0
        self._within = ExitStack()

    def __enter__(self) -> None:
        self._within.enter_context(self._bar)
        self._within.enter_context(telling(self._told))

    def __exit__(self, *exception: Any) -> None:
        self._within.__exit__(*exception)

    def _told(self, doing: str, done: int, total: int) -> None:
        if (doing, total) != self._now:
            self._now, self._bar.columns = (doing, total), self._whole
            self._bar.reset(self._task, total=total, completed=done, description=doing)
            if not self._console.is_terminal and total >= LARGE and doing.startswith(DOWNLOADING):
                self._console.print(f"{doing}, {gib(total)}.", markup=False, soft_wrap=True)
        self._bar.update(self._task, completed=done, total=total)


class StepBar:
    """A bar of sampling steps with the time that is left; of weights that are read again it says how far they are."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("Sampling", total=None)
        self._words = "Sampling"
        self._within = ExitStack()

    def __enter__(self) -> Callable[[int, int], None]:
        self._within.enter_context(self._bar)
        self._within.enter_context(telling(self._told))
        return self._advance

    def __exit__(self, *exception: Any) -> None:
        self._within.__exit__(*exception)

    def _advance(self, done: int, steps: int) -> None:
        self._words = "Decoding" if done == steps else "Sampling"
        self._bar.update(self._task, completed=done, total=steps, description=self._words)

    def _told(self, doing: str, done: int, total: int) -> None:
        self.say(in_words(doing, done, total))

    def say(self, doing: str) -> None:
        """What else than a step is being done; empty: nothing."""
        self._bar.update(self._task, description=doing or self._words)
