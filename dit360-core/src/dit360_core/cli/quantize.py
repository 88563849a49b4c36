"""``dit360 quantize MODEL -o DIR --mode MODE``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import told
from dit360_core.options import STORED, LoadOptions, build, options_of

if TYPE_CHECKING:
    from rich.console import Console

    from dit360_core.pipeline.state import State


# Beside those that it does not take: an argument of its own, and one that can have one value only.
_WITHOUT = ({*options_of(LoadOptions)} - STORED) | {"model", "lora_mode"}
_CALLED = {"quantization_mode": "--mode", "quantization_parts": "--parts", "quantization_skip": "--skip"}
"""Quantization is all that it does, so its flags say less."""


def command() -> Callable[..., None]:
    """The command, with those options of loading that it takes."""

    def quantize(model: str, output: Path, verbose: bool, **options: Any) -> None:
        with told(logging.INFO if verbose else logging.WARNING) as console:
            # Slips of the pen are told before anything is imported.
            build(LoadOptions, {"model": model, **options})
            state = _run(console, model, output, options)
            _report(state, output)

    quantize.__doc__ = (
        "Quantize a model once and keep it, so that it starts fast and never needs the memory of the full weights."
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
                annotation=Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", show_default=False)],
            ),
            *parameters(LoadOptions, leave_out=_WITHOUT, called=_CALLED, required=("quantization_mode",)),
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


def _run(console: Console, model: str, output: Path, options: dict[str, Any]) -> State:
    from rich.progress import Progress

    from dit360_core.pipeline.quantizing import quantize
    from dit360_core.system.atomic import check_new_folder

    check_new_folder(output)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(part: str, done: int, layers: int) -> None:
            if part not in tasks:
                tasks[part] = bar.add_task(part, total=layers)
            bar.update(tasks[part], completed=done)

        return quantize(model, output, progress=advance, **options)


def _report(state: State, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from dit360_core.models.weights.conversion import megabytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "layers", "left", "full", "quantized", "error of a layer", "at most", "kernels"):
        table.add_column(name, overflow="fold", justify="left" if name in ("part", "kernels") else "right")
    for part in state.quantized:
        table.add_row(
            part.part,
            str(len(part.layers)),
            str(len(part.left)),
            megabytes(part.bytes_before),
            megabytes(part.bytes),
            f"{part.errors.median:.1%}" if part.errors else "",
            f"{part.errors.most:.1%}" if part.errors else "",
            ", ".join(part.kernels),
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    for lora in state.loras:
        console.print(
            f"LoRA {lora.name} fused into {lora.modules} layers, strength {lora.strength:g}; {lora.used} of its "
            f"{lora.tensors} tensors are used.",
            soft_wrap=True,
        )
    if state.lora_kept is not None:
        console.print(f"{state.lora_kept:.0%} of the LoRAs' effect is left by rounding.")
    console.print(f"Saved {output}. Use it: dit360 generate PROMPT --model {output}", soft_wrap=True)
