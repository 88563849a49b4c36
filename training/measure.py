# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Measures an exported model folder; every figure of the model card comes from here."""

from __future__ import annotations

import time
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
from training.render import render, to_uint8
from training.sample import sample
from training.scenes import draw
from training.text import Text
from training.wrapping import wrap_longitude


def seam_ratio(pictures: Tensor) -> Tensor:
    """Mean step across the ±180° meridian over the median step of neighbouring columns, for each (3, H, W)."""
    steps = (pictures - pictures.roll(1, -1)).abs().mean((1, 2))
    return steps[:, 0] / steps[:, 1:].median(1).values


def main(
    folder: Annotated[Path, typer.Option(help="A diffusers folder.")] = TARGET,
    scenes: Annotated[int, typer.Option(help="Unseen scenes to measure on.")] = 48,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Embedded guidance.")] = 3.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Prints the figures as a list."""
    torch.set_num_threads(threads)
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    vae = wrap_longitude(pipeline.vae)
    unseen = [draw(HELD_OUT_SEED + number) for number in range(scenes)]
    pictures = to_uint8(render(unseen, 256, 512))
    for name, height in latents.SIZES.items():
        values = psnr(vae, to_float(pictures, height))
        print(f"autoencoder PSNR on {scenes} unseen renders, {height}x{2 * height}: mean {values.mean():.2f} dB, "
              f"median {values.median():.2f}, lowest {values.min():.2f}")  # fmt: skip
        z = latents.encode(vae, pictures, height)
        text = Text(pipeline.tokenizer, pipeline.tokenizer_2)
        text.text_encoder, text.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
        trainer = transformer.Trainer(pipeline.transformer, text.eval(), {name: (z, unseen)})
        with torch.no_grad():
            losses = torch.cat([trainer.losses(name, 16, seed, distil=False) for seed in range(8)])
        print(f"flow-matching loss on them, {height}x{2 * height}: {losses.mean():.4f} (128 noise draws)")
    for height in latents.SIZES.values():
        start = time.monotonic()
        made = sample(pipeline, list(HELD_OUT_PROMPTS[:4]), height, steps, guidance, bf16=False)
        seconds = (time.monotonic() - start) / 4
        poles = made[:, :, -1].std(-1).mean()
        print(f"{height}x{2 * height}, {steps} steps, guidance {guidance}: {seconds:.2f} s a picture in float32, "
              f"seam ratio {seam_ratio(made).mean():.2f}, standard deviation of the last row {poles:.4f}")  # fmt: skip
        z = torch.randn(1, 16, height // 8, height // 4)
        start = time.monotonic()
        with torch.no_grad():
            vae.decode(z)
        print(f"decoding {height}x{2 * height}: {time.monotonic() - start:.2f} s")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    count = sum(p.numel() for part in pipeline.components.values() if isinstance(part, torch.nn.Module)
                for p in part.parameters())  # fmt: skip
    print(f"{count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
