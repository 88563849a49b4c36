"""``dit360 batch LIST -o DIR``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import told
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.system.durations import duration

if TYPE_CHECKING:
    from rich.console import Console

    from dit360_core.batching import Batch
    from dit360_core.batching.items import Item

FAILED = 1
"""Exit code if some pictures could not be made."""

# The list says the prompts; a model is loaded once, so its options are not needed twice.
_ONCE = ("prompt", "attention_backend", "attention_slice_size", "log_memory_stats")


def command() -> Callable[..., None]:
    """The command, with the signature of the three option classes."""

    def batch(
        source: Path,
        output: Path,
        format: str,
        quality: int,
        engine: str,
        workers: int | None,
        ray_address: str | None,
        force: bool,
        dry_run: bool,
        verbose: bool,
        **options: Any,
    ) -> None:
        with told(logging.INFO if verbose else logging.WARNING) as console:
            from dit360_core.batching import Batch

            batch = Batch(
                source,
                output,
                format=format,
                quality=quality,
                engine=engine,
                workers=workers,
                ray_address=ray_address,
                force=force,
                **options,
            )
            failed = _tell(console, batch) if dry_run else _run(console, batch)
        if failed:
            raise typer.Exit(FAILED)

    batch.__doc__ = (
        "Make many panoramas with one model, from a list to a folder. Stopped at any moment and run again, it goes on."
    )
    own = {
        "source": (
            inspect.Parameter.empty,
            Annotated[
                Path,
                typer.Argument(
                    metavar="LIST",
                    help="A .txt with one prompt in each line, or .jsonl or .csv with prompt and any option of a "
                    "picture, name (of the file) and image (to begin with).",
                    show_default=False,
                ),
            ],
        ),
        "output": (
            inspect.Parameter.empty,
            Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", show_default=False)],
        ),
        "format": (
            "jpg",
            Annotated[str, typer.Option("--format", help="Of pictures whose line names none.", metavar="jpg|png|webp")],
        ),
        "quality": (95, Annotated[int, typer.Option("--quality", help="Of JPEG and WebP.", min=1, max=100)]),
        "engine": (
            "local",
            Annotated[str, typer.Option("--engine", help="Who makes them: this process, or Ray.", metavar="local|ray")],
        ),
        "workers": (
            None,
            Annotated[
                int | None,
                typer.Option("--workers", help="Models that Ray loads.", show_default="one for each GPU, or machine"),
            ],
        ),
        "ray_address": (
            None,
            Annotated[
                str | None,
                typer.Option(
                    "--ray-address",
                    help="Cluster to use: auto, or host:port.",
                    show_default="a Ray of this machine, for the while",
                ),
            ],
        ),
        "force": (
            False,
            Annotated[bool, typer.Option("--force", help="Replace files that are other pictures than the list asks.")],
        ),
        "dry_run": (False, Annotated[bool, typer.Option("--dry-run", help="Only tell what would be made.")]),
        "verbose": (False, Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")]),
    }
    batch.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "source" else inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=annotation,
                )
                for name, (default, annotation) in own.items()
            ),
            *parameters(SampleOptions, "Every picture whose line does not say otherwise", leave_out=_ONCE),
            *parameters(LoadOptions, "Model and backends"),
            *parameters(DecodeOptions, "Decoding"),
        ]
    )
    batch.__annotations__ = {p.name: p.annotation for p in inspect.signature(batch).parameters.values()}
    return batch


def _tell(console: Console, batch: Batch) -> int:
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


def _run(console: Console, batch: Batch) -> int:
    """Makes the pictures; how many failed."""
    total, there = len(batch.items), len(batch.done)
    if there:
        console.print(f"{there} of {total} pictures are there already.")
    made = failed = 0
    try:
        with _Progress(console, total, there) as progress:
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


class _Progress:
    """A bar of pictures with the time that is left, and one of the steps of the picture at work."""

    def __init__(self, console: Console, total: int, there: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

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
