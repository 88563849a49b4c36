# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Measures an exported model folder; every figure of the model card under "Measured" comes from here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import FluxPipeline
from torch import Tensor

from training import latents, transformer
from training.autoencoder import psnr
from training.captions import HELD_OUT_PROMPTS
from training.data import HELD_OUT_SEED, to_float
from training.export import TARGET
from training.flux_parts import CHANNELS
from training.render import render, to_uint8
from training.sample import sample
from training.scenes import draw
from training.text import Text
from training.wrapping import wrap_longitude


def seam_ratio(pictures: Tensor) -> Tensor:
    """Mean step across the ±180° meridian over the median step of neighbouring columns, for each (3, H, W)."""
    steps = (pictures - pictures.roll(1, -1)).abs().mean((1, 2))
    return steps[:, 0] / steps[:, 1:].median(1).values


def figures(folder: Path, scenes: int = 48, steps: int = 20, guidance: float = 3.0) -> Iterator[str]:
    """One line for each figure of the model in `folder`, on `scenes` scenes that training never saw."""
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    vae = wrap_longitude(pipeline.vae)
    unseen = [draw(HELD_OUT_SEED + number) for number in range(scenes)]
    pictures = to_uint8(render(unseen, 256, 512))
    text = Text(pipeline.tokenizer, pipeline.tokenizer_2)
    text.text_encoder, text.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
    for name, height in latents.SIZES.items():
        at = f"{2 * height}x{height}"
        values = psnr(vae, to_float(pictures, height))
        yield (
            f"{at}: autoencoder PSNR on {scenes} unseen renders: mean {values.mean():.2f} dB, "
            f"median {values.median():.2f} dB, lowest {values.min():.2f} dB"
        )
        known: transformer.Latents = {name: (latents.encode(vae, pictures, height), unseen)}
        trainer = transformer.Trainer(pipeline.transformer, text.eval(), known)
        with torch.no_grad():
            losses = torch.cat([trainer.losses(name, 16, seed, distil=False) for seed in range(8)])
        yield f"{at}: flow-matching loss on them, guidance 1: {losses.mean():.4f} (128 draws of scene, noise and sigma)"
        start = time.monotonic()
        made = sample(pipeline, list(HELD_OUT_PROMPTS[:4]), height, steps, guidance, bf16=False)
        seconds = (time.monotonic() - start) / 4
        yield (
            f"{at}: {steps} steps at guidance {guidance:g}: {seconds:.2f} s a picture in float32; seam ratio "
            f"{seam_ratio(made).mean():.2f}; standard deviation of the last row {made[:, :, -1].std(-1).mean():.4f}"
        )
        start = time.monotonic()
        with torch.no_grad():
            vae.decode(torch.randn(1, CHANNELS, height // 8, height // 4))
        yield f"{at}: decoding {time.monotonic() - start:.2f} s"


def size_of(folder: Path) -> str:
    """Parameters in millions and size on disk in MB (10^6 bytes)."""
    pipeline = FluxPipeline.from_pretrained(folder)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return f"{count / 1e6:.2f} M parameters, {total / 1e6:.1f} MB"


def main(
    folder: Annotated[Path, typer.Option(help="A diffusers folder.")] = TARGET,
    scenes: Annotated[int, typer.Option(help="Unseen scenes to measure on.")] = 48,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Embedded guidance.")] = 3.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Prints the figures, one a line."""
    torch.set_num_threads(threads)
    print(size_of(folder))
    for line in figures(folder, scenes, steps, guidance):
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
