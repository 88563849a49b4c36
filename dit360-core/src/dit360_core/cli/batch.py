"""``dit360 batch LIST -o DIR``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters, saving_parameters
from dit360_core.cli.output import reporting
from dit360_core.options import (
    DecodeOptions,
    EditOptions,
    LargerOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    options_of,
)
from dit360_core.options.usual import USUAL_LARGER

FAILED = 1
"""Exit code if some pictures could not be made."""

# The list says the prompts; a model is loaded once, so its options are not needed twice.
_ONCE = ("prompt", "attention_backend", "attention_slice_size", "log_memory_stats")
_OF_BOTH = {
    name: f"{options_of(SampleOptions)[name].default}; of a larger picture {usual}"
    for name, usual in USUAL_LARGER.items()
}


def command() -> Callable[..., None]:
    """The command, with the signature of the three option classes."""

    def batch(
        source: Path,
        output: Path,
        format: str,
        quality: int,
        bits: int | None,
        expand_highlights: bool,
        engine: str,
        workers: int | None,
        ray_address: str | None,
        force: bool,
        dry_run: bool,
        verbose: bool,
        **options: Any,
    ) -> None:
        with reporting(logging.INFO if verbose else logging.WARNING) as console:
            from dit360_core.cli.work.batch import run

            # Who says nothing of these has others for larger pictures.
            options = {name: value for name, value in options.items() if name not in USUAL_LARGER or value is not None}
            failed = run(
                console,
                source,
                output,
                format=format,
                quality=quality,
                bits=bits,
                expand_highlights=expand_highlights,
                engine=engine,
                workers=workers,
                ray_address=ray_address,
                force=force,
                dry_run=dry_run,
                **options,
            )
        if failed:
            raise typer.Exit(FAILED)

    batch.__doc__ = (
        "Make many panoramas with one model, from a list to a folder. Stopped at any moment and run again, it goes on. "
        "Options of a picture are for those whose line does not say otherwise."
    )
    own = {
        "source": (
            inspect.Parameter.empty,
            Annotated[
                Path,
                typer.Argument(
                    metavar="LIST",
                    help="A .txt with one prompt in each line, or .jsonl or .csv with prompt and any option of a "
                    "picture, name (of the file), image (to begin with), mask, photo and upscale.",
                    show_default=False,
                    readable=False,  # which is told in a sentence, without the usage
                ),
            ],
        ),
        "output": (
            inspect.Parameter.empty,
            Annotated[
                Path,
                typer.Option("--output", "-o", help="Folder for the pictures.", show_default=False, readable=False),
            ],
        ),
        "format": (
            "jpg",
            Annotated[
                str,
                typer.Option(
                    "--format", help="Of pictures whose line names none.", metavar="jpg|png|webp|avif|tif|exr"
                ),
            ],
        ),
        "quality": (95, Annotated[int, typer.Option("--quality", help="Of JPEG, WebP and AVIF.", min=1, max=100)]),
        **{one.name: (one.default, one.annotation) for one in saving_parameters()},
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
        "shard": (
            "1/1",
            Annotated[
                str,
                typer.Option(
                    "--shard", help="Only a part of the list, such as 2/8, beside others in one folder.", metavar="I/N"
                ),
            ],
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
            *parameters(SampleOptions, leave_out=_ONCE, unset=_OF_BOTH),
            *parameters(PhotoOptions),
            *parameters(EditOptions),
            *parameters(LargerOptions),
            *parameters(LoadOptions),
            *parameters(DecodeOptions),
        ]
    )
    batch.__annotations__ = {p.name: p.annotation for p in inspect.signature(batch).parameters.values()}
    return batch
