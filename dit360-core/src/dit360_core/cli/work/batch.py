"""Makes the pictures of a list, or tells which are missing, and says how it goes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dit360_core.batching import Batch
from dit360_core.batching.items import Item
from dit360_core.batching.painting import WouldBeDownloaded, refuse_downloads
from dit360_core.system.durations import duration
from dit360_core.system.progress import in_words, telling


def run(console: Console, source: Path, output: Path, *, dry_run: bool, **options: Any) -> int:
    """How many pictures failed.

    options: of :class:`dit360_core.batching.Batch`.
    """
    batch = Batch(source, output, **options)
    if not batch.items:
        part, parts = batch.shard
        console.print(f"Part {part} of {parts} of this list is empty.")
        return 0
    return _tell(console, batch) if dry_run else _make(console, batch)


def _tell(console: Console, batch: Batch) -> int:
    """Checks what a run checks before it reads weights, downloads none, and tells what would be made."""
    try:
        with telling(refuse_downloads):
            batch.check()
    except WouldBeDownloaded as what:
        console.print(
            f"The pictures are not checked with the model yet: a run downloads {what} first, then checks them.",
            markup=False,
            soft_wrap=True,
        )
    for item in batch.missing:
        console.print(f"line {item.line}: {item.name} (seed {item.sampling.seed})", markup=False, soft_wrap=True)
    console.print(_to_do(len(batch.missing), len(batch.items)))
    return 0


def _to_do(missing: int, total: int) -> str:
    there = total - missing
    if not missing:
        return "The picture is there; nothing is to be made." if total == 1 else f"All {total} pictures are there."
    to_be = f"{missing} of {total} picture{'s' if total > 1 else ''} {'is' if missing == 1 else 'are'} to be made"
    return f"{to_be}; the other{'s are' if there > 1 else ' is'} there." if there else f"{to_be}."


def _make(console: Console, batch: Batch) -> int:
    """Makes the pictures; how many failed."""
    total, there = len(batch.items), len(batch.done)
    if there:
        console.print(f"{there} of {total} pictures are there already.")
    made = failed = 0
    try:
        with _Bar(console, total, there) as progress:
            for outcome in batch.run(progress.step):
                made, failed = made + (outcome.status == "done"), failed + (outcome.status == "failed")
                progress.advance()
                if outcome.status == "done":
                    by = f", {outcome.worker}" if outcome.worker else ""
                    console.print(
                        f"{there + made + failed}/{total} {outcome.file} (seed {outcome.seed}, "
                        f"{duration(outcome.seconds or 0.0)}{by})",
                        markup=False,
                        soft_wrap=True,
                    )
    except KeyboardInterrupt:
        console.print(f"{there + made} of {total} pictures are there; the same command goes on with the rest.")
        raise
    console.print(
        f"{there + made} of {total} pictures are in {batch.folder.path}; {batch.folder.manifest.name} lists them."
        + (f" {failed} failed, see above; the same command tries them again." if failed else ""),
        markup=False,
        soft_wrap=True,
    )
    return failed


class _Bar:
    """A bar of pictures with the time that is left, and one of the steps of the picture at work."""

    def __init__(self, console: Console, total: int, there: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._pictures = self._bar.add_task("Pictures", total=total, completed=there)
        self._steps: Any = None
        self._within = ExitStack()

    def __enter__(self) -> _Bar:
        self._within.enter_context(self._bar)
        self._within.enter_context(telling(self._told))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._within.__exit__(*exception)

    def _told(self, doing: str, done: int, total: int) -> None:
        words = in_words(doing, done, total)
        self._bar.update(self._pictures, description=f"Pictures ({words})" if words else "Pictures")

    def advance(self) -> None:
        """One picture more."""
        self._bar.update(self._pictures, advance=1)

    def step(self, item: Item, done: int, steps: int) -> None:
        """A step of the picture at work."""
        if self._steps is None:
            self._steps = self._bar.add_task("Sampling", total=steps)
        self._bar.update(
            self._steps, completed=done, total=steps, description="Decoding" if done == steps else "Sampling"
        )
