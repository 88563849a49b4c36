"""``dit360 quantize MODEL -o DIR --mode MODE``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import reporting
from dit360_core.options import QUANTIZE_OPTIONS, LoadOptions, options_of

# Beside those that it does not take: an argument of its own, and one that can have one value only.
_WITHOUT = ({*options_of(LoadOptions)} - QUANTIZE_OPTIONS) | {"model", "lora_mode"}
_CALLED = {"quantization_mode": "--mode", "quantization_parts": "--parts", "quantization_skip": "--skip"}
"""Quantization is all that it does, so its flags say less."""
_OUTPUT = "Folder to make, or a file for ComfyUI: x.safetensors, x.gguf."


def command() -> Callable[..., None]:
    """The command, with those options of loading that it takes."""

    def quantize(model: str, output: Path, verbose: bool, **options: Any) -> None:
        with reporting(logging.INFO if verbose else logging.WARNING) as console:
            from dit360_core.cli.work.quantize import run

            run(console, model, output, options)

    quantize.__doc__ = (
        "Quantize a model once and keep it, so that it starts fast and never needs the memory of the full weights.\n\n"
        "A file holds one part: the transformer, or with --parts text the text encoder. Its modes are those of such "
        "files: fp8, int8, int8-convrot and none in .safetensors; Q8_0, Q6_K, Q5_K, Q4_K and others in .gguf."
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    quantize.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                "model",
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=Annotated[
                    str, typer.Argument(help=options_of(LoadOptions)["model"].help, show_default=False)
                ],
            ),
            inspect.Parameter(
                "output",
                keyword,
                annotation=Annotated[
                    Path,
                    typer.Option(
                        "--output",
                        "-o",
                        help=_OUTPUT,
                        show_default=False,
                    ),
                ],
            ),
            *parameters(
                LoadOptions, grouped=False, leave_out=_WITHOUT, called=_CALLED, required=("quantization_mode",)
            ),
            inspect.Parameter(
                "verbose",
                keyword,
                default=False,
                annotation=Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")],
            ),
        ]
    )
    quantize.__annotations__ = {p.name: p.annotation for p in inspect.signature(quantize).parameters.values()}
    return quantize
