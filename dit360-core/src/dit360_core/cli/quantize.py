"""``dit360 quantize MODEL -o DIR --mode MODE``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from dit360_core.cli import usage
from dit360_core.cli.output import told
from dit360_core.options import QUANTIZED, LoadOptions, build

if TYPE_CHECKING:
    from rich.console import Console

    from dit360_core.planning.plan import Plan


class Command(usage.Command):
    """Quantization is all that it does, so its flags say less."""

    meant: ClassVar[Mapping[str, str]] = {
        "quantization_mode": "--mode",
        "quantization_parts": "--parts",
        "quantization_skip": "--skip",
    }


def quantize(
    model: Annotated[
        str, typer.Argument(help="Model: a known name, a diffusers folder, or a Hub id.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", show_default=False)],
    mode: Annotated[
        str, typer.Option("--mode", help="How weights are stored; see 'dit360 backends'.", show_default=False)
    ],
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            help="LoRA to fuse first, beside the model's own; may be given several times.",
            metavar="FILE[:STRENGTH]",
            show_default="none",
        ),
    ] = None,
    lora_strength: Annotated[
        float, typer.Option("--lora-strength", help="Of LoRAs without one, and of the model's own if alone.")
    ] = 1.0,
    model_lora: Annotated[
        bool, typer.Option("--model-lora/--no-model-lora", help="Fuse the model's own LoRA, if it has one.")
    ] = True,
    vae: Annotated[
        str | None,
        typer.Option("--vae", help="Autoencoder to store instead of the model's.", show_default="the model's"),
    ] = None,
    t5: Annotated[
        str | None,
        typer.Option("--t5", help="T5 text encoder to take instead of the model's.", show_default="the model's"),
    ] = None,
    parts: Annotated[str, typer.Option("--parts", help="What is quantized.", metavar="|".join(QUANTIZED))] = "both",
    skip: Annotated[
        str, typer.Option("--skip", help="Layers to leave in full precision: patterns, separated by commas.")
    ] = "",
    precision: Annotated[str, typer.Option("--precision", help="Numbers that the weights are rounded from.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="Where to quantize.")] = "auto",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")] = False,
) -> None:
    """Quantize a model once and keep it, so that it starts fast and never needs the memory of the full weights."""
    with told(logging.INFO if verbose else logging.WARNING) as console:
        options: dict[str, Any] = {
            "quantization_mode": mode,
            "quantization_parts": parts,
            "quantization_skip": skip,
            "lora": lora,
            "lora_strength": lora_strength,
            "model_lora": model_lora,
            "vae": vae,
            "t5": t5,
            "precision": precision,
            "device": device,
        }
        # Slips of the pen are told before anything is imported.
        build(LoadOptions, {"model": model, **options})
        plan = _run(console, model, output, options)
        _report(plan, output)


def _run(console: Console, model: str, output: Path, options: dict[str, Any]) -> Plan:
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


def _report(plan: Plan, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from dit360_core.models.weights.conversion import megabytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "layers", "left", "full", "quantized", "error of a layer", "at most", "kernels"):
        table.add_column(name, overflow="fold", justify="left" if name in ("part", "kernels") else "right")
    for part in plan.quantized:
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
    for lora in plan.loras:
        console.print(
            f"LoRA {lora.name} fused into {lora.modules} layers, strength {lora.strength:g}; {lora.used} of its "
            f"{lora.tensors} tensors are used.",
            soft_wrap=True,
        )
    if plan.lora_kept is not None:
        console.print(f"{plan.lora_kept:.0%} of the LoRAs' effect is left by rounding.")
    console.print(f"Saved {output}. Use it: dit360 generate PROMPT --model {output}", soft_wrap=True)
