"""The bar of a picture that is being made."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class StepBar:
    """A bar of sampling steps with the time that is left."""

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

    def __enter__(self) -> Callable[[int, int], None]:
        self._bar.start()
        return self._advance

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _advance(self, done: int, steps: int) -> None:
        decoding = done == steps
        self._bar.update(self._task, completed=done, total=steps, description="Decoding" if decoding else "Sampling")
