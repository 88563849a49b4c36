"""Quantizes a model into a folder, and reports what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dit360_core.cli.wording import worded
from dit360_core.errors import marked
from dit360_core.options import LoadOptions, build, flag
from dit360_core.planning.written import check_target
from dit360_core.plugins.registry import default_registry
from dit360_core.system.progress import telling

if TYPE_CHECKING:
    from dit360_core.pipeline.state import State


def run(console: Console, model: str, output: Path, options: dict[str, Any]) -> None:
    """Makes the folder and tells of it. Slips of the pen are told before torch is imported."""
    asked = build(LoadOptions, {"model": model, **options})
    check_target(output, asked.quantization_mode, default_registry())
    _report(_quantized(console, model, output, options), output)


def _quantized(console: Console, model: str, output: Path, options: dict[str, Any]) -> State:
    from dit360_core.pipeline.quantizing import quantize

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(doing: str, done: int, total: int) -> None:
            """Of layers of a part, or of bytes that are downloaded."""
            if doing not in tasks:
                tasks[doing] = bar.add_task(doing, total=total)
            bar.update(tasks[doing], completed=done, total=total)

        with telling(advance):
            return quantize(model, output, progress=advance, **options)


def _report(state: State, output: Path) -> None:
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
    for note in (*state.plan.notes, *state.remarks):
        told = worded(marked(note)).rstrip(".")
        console.print(f"Note: {told}.", soft_wrap=True)
    console.print(f"Saved {output}{_use(state, output)}", soft_wrap=True)


def _use(state: State, output: Path) -> str:
    """The end of a line: how to use what was written."""
    from dit360_core.models.weights.conversion import megabytes

    if output.is_dir():
        return f". Use it: dit360 generate PROMPT --model {output}"
    part, size, options = state.quantized[0], megabytes(output.stat().st_size), state.plan.options
    model = Path(options.model)
    # A model of single files is named by its transformer, which this may be.
    named = "" if model.is_file() else f"--model {options.model} "
    if not part.given_as:
        return f" ({size}). No option of dit360 takes such a file of this family."
    return f" ({size}). Use it: dit360 generate PROMPT {named}{flag(part.given_as)} {output}"
