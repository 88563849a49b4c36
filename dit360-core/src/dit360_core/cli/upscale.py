"""``dit360 upscale FILE [PROMPT] --to WIDTH``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters, saving_parameters
from dit360_core.cli.output import reporting
from dit360_core.options import DecodeOptions, EditOptions, LargerOptions, LoadOptions, SampleOptions
from dit360_core.options.usual import USUAL_LARGER as USUAL

# Of a picture, what is an argument or follows from it; and what is the loaded model's, as for generate.
_WITHOUT = ("prompt", "width", "height", "attention_backend", "attention_slice_size")


def command() -> Callable[..., None]:
    """The command, with the signature of the option classes."""

    def upscale(
        file: Path,
        prompt: str | None,
        to: int,
        output: Path | None,
        mask: Path | None,
        force: bool,
        open_viewer: bool,
        verbose: bool,
        bits: int | None,
        expand_highlights: bool,
        **options: Any,
    ) -> None:
        with reporting(logging.INFO if verbose else logging.WARNING) as console:
            from dit360_core.cli.work.upscale import run

            saving = {"force": force, "bits": bits, "expand_highlights": expand_highlights}
            run(console, file, prompt, to, output, mask, saving, open_viewer, options)

    upscale.__doc__ = (
        "Make a panorama larger, with new detail, in windows that are averaged at every step.\n\n"
        "Time and memory grow with its area only. Stopped at any moment and run again, it goes on: what is done is "
        "kept beside the output until the picture is there."
    )
    keyword = inspect.Parameter.KEYWORD_ONLY

    def flag(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, keyword, default=default, annotation=annotation)

    upscale.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                "file",
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=Annotated[Path, typer.Argument(help="A panorama.", show_default=False)],
            ),
            inspect.Parameter(
                "prompt",
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None,
                annotation=Annotated[
                    str | None, typer.Argument(help="What it shows; by default, what its metadata say.")
                ],
            ),
            flag("to", Annotated[int, typer.Option("--to", help="Width in pixels, such as 4096, 8192 or 16384.")]),
            flag(
                "output",
                Annotated[
                    Path | None,
                    typer.Option(
                        "--output", "-o", help="File to write; by default FILE with its width.", show_default=False
                    ),
                ],
                None,
            ),
            flag(
                "mask",
                Annotated[
                    Path | None,
                    typer.Option("--mask", help="Picture that is white where detail is made; the rest is resampled."),
                ],
                None,
            ),
            flag("force", Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")], False),
            flag(
                "open_viewer",
                Annotated[bool, typer.Option("--open", help="Look around in the browser afterwards.")],
                False,
            ),
            flag(
                "verbose",
                Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")],
                False,
            ),
            *saving_parameters(),
            *parameters(SampleOptions, leave_out=_WITHOUT, defaults=USUAL),
            *parameters(LargerOptions),
            *parameters(EditOptions),
            *parameters(LoadOptions),
            *parameters(DecodeOptions),
        ]
    )
    upscale.__annotations__ = {p.name: p.annotation for p in inspect.signature(upscale).parameters.values()}
    return upscale
