"""Whether a change of the code changed a picture: twelve pictures with varied options, recorded and compared.

    python bench/pictures.py record before        # with the code as it was; two minutes
    python bench/pictures.py record after         # with the code as it is
    python bench/pictures.py compare before after

Both folders must be recorded on one machine: another processor rounds differently. Exit code 1 if a pixel differs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

PROMPTS = ("a castle above a meadow at sunset", "a lake in the morning", "a desert at night", "a village in fog")
LORA = "made.safetensors"
FIRST = "01-plain.png"

SETTINGS: dict[str, list[str]] = {
    "01-plain": [],
    "02-rotated": ["--width", "256", "--latent-rotation", "--yaw-consistency", "0.5", "--steps", "6"],
    "03-heun": ["--width", "256", "--scheduler-type", "heun", "--timestep-schedule", "cosine", "--cube-consistency",
                "0.7", "--steps", "5"],
    "04-ddim": ["--width", "256", "--scheduler-type", "ddim", "--scheduler-eta", "1", "--steps", "9"],
    "05-negative": ["--width", "256", "--true-guidance", "3", "--negative-prompt", "fog", "--attention-backend",
                    "eager", "--attention-slice-size", "48", "--guidance", "2"],
    "06-image": ["--image", FIRST, "--denoise", "0.6", "--scheduler-type", "dpmpp_2m", "--steps", "8"],
    "07-int8": ["--quantization-mode", "int8", "--quantization-parts", "transformer", "--evict", "all"],
    "08-int4": ["--width", "256", "--quantization-mode", "int4", "--lora", f"{LORA}:0.7", "--preset", "low-vram",
                "--vram", "2"],
    "09-adapter": ["--width", "256", "--lora", f"{LORA}:-0.8", "--lora-mode", "adapter", "--precision", "bf16",
                   "--evict", "text"],
    "10-blended": ["--width", "1024", "--steps", "2", "--tiling-backend", "blended", "--tiling-mode", "always",
                   "--tile-size-override", "512", "--position-interpolation"],
    "11-bias": ["--width", "512", "--circular-mode", "bias", "--circular-padding", "3", "--tiling-level",
                "recomputed", "--tiling-mode", "always", "--steps", "4"],
    "12-fp8": ["--width", "256", "--quantization-mode", "fp8", "--lora", f"{LORA}:0.5", "--lora-mode", "adapter",
               "--prompt-prefix", "a drawing of", "--max-sequence-length", "40", "--scheduler-type", "unipc",
               "--timestep-schedule", "quadratic", "--steps", "7"],
}  # fmt: skip
"""Name of a picture → what is asked for besides prompt and seed. Between them they go through each solver, kind of
weights, way of tiling and consistency of the core."""

app = typer.Typer(add_completion=False)


def write_lora(file: Path) -> None:
    """A LoRA of rank 4 for two layers of the embedded model, whose width is 192; random, and the same each time."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for layer in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_k"):
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(4, 192, generator=generator) * 0.1
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(192, 4, generator=generator) * 0.1
    save_file(tensors, file)


@app.command()
def record(folder: Annotated[Path, typer.Argument(help="Folder to make; must not be there.")]) -> None:
    """Paint the pictures into a folder."""
    folder.mkdir(parents=True)
    write_lora(folder / LORA)
    dit360 = str(Path(sys.executable).with_name("dit360"))
    for number, (name, options) in enumerate(SETTINGS.items()):
        given = [PROMPTS[number % len(PROMPTS)], "--seed", str(20 + number), "--output", f"{name}.png", *options]
        done = subprocess.run([dit360, "generate", *given], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            typer.echo(f"{name}: {done.stderr}", err=True)
            raise typer.Exit(2)
        typer.echo(name)


@app.command()
def compare(before: Path, after: Path) -> None:
    """Tell which pictures of two folders differ, and by how much."""
    differing = 0
    for name in SETTINGS:
        first, second = (
            numpy.asarray(Image.open(folder / f"{name}.png"), dtype=numpy.int16) for folder in (before, after)
        )
        if first.shape != second.shape:
            differing += 1
            typer.echo(f"{name}: {first.shape} before, {second.shape} after")
        elif (first != second).any():
            differing += 1
            largest = int(numpy.abs(first - second).max())
            typer.echo(f"{name}: {int((first != second).any(-1).sum())} pixels differ, by {largest} of 255 at most")
    typer.echo(f"{len(SETTINGS) - differing} of {len(SETTINGS)} pictures are equal bit for bit")
    raise typer.Exit(1 if differing else 0)


if __name__ == "__main__":
    app()
