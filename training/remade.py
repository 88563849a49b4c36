# diffusers does not type its models.
# mypy: disable-error-code="attr-defined,no-any-return,no-untyped-call"
"""Renders noised a little and finished again by the transformer: latents as the decoder meets them in use.

Such latents are those of a picture that is known, with the errors that the transformer makes: detail that does not go
on from one token to the next, noise near the poles. What `autoencoder --remade` learns from them is to hide these.
"""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import FluxTransformer2DModel
from torch import Tensor

from training import checkpoint, text, transformer
from training.autoencoder import REMADE
from training.captions import caption
from training.flux_parts import pack, schedule, unpack
from training.latents import read
from training.scenes import Scene
from training.trainer import velocity

NOISE = 0.1, 0.5
"""Noise levels that renders go back to. Above, another picture comes back, from which a decoder learns to blur."""
GUIDANCE = 1.0, 4.0
STEPS = 28
LENGTH = 64
A_FILE = 50


@torch.no_grad()
def remake(model: FluxTransformer2DModel, encoders: text.Text, clean: Tensor, scene: Scene, seed: int) -> Tensor:
    """Normalized latents (C, h, w) after a way there and back; all that is random follows from ``seed``.

    The longitude turns at every step, by odd numbers of latents too, as it does in use.
    """
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    sigma, guidance = dice.uniform(*NOISE), torch.tensor([dice.uniform(*GUIDANCE)], device=clean.device)
    words, pooled = encoders([caption(scene, dice)], LENGTH)
    x = (1 - sigma) * clean[None] + sigma * torch.randn(clean[None].shape, generator=generator).to(clean.device)
    whole = schedule(STEPS, x.shape[-2] // 2 * (x.shape[-1] // 2 + 2))
    for now, then in pairwise(torch.cat((torch.tensor([sigma]), whole[whole < sigma])).to(clean.device)):
        turned = dice.randrange(x.shape[-1])
        v = unpack(velocity(model, pack(x.roll(turned, -1)), now.view(1), words, pooled, guidance).float())
        x = x + (then - now) * v.roll(-turned, -1)
    return x[0]


def main(
    count: Annotated[int, typer.Option(help="How many.")] = 1000,
    state: Annotated[Path, typer.Option(help="Checkpoint of the transformer.")] = transformer.CHECKPOINT,
    worker: Annotated[int, typer.Option(help="Number of this worker, from 0.")] = 0,
    workers: Annotated[int, typer.Option(help="How many workers share the work.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of this worker.")] = 1,
    device: Annotated[str, typer.Option(help="Where to make them.")] = "cpu",
) -> None:
    """Writes files of fifty, those that are not there yet."""
    torch.set_num_threads(threads)
    REMADE.mkdir(parents=True, exist_ok=True)
    model, encoders = transformer.load(state).to(device), text.load().to(device)
    latents, scenes = read("large")
    for number in range(worker, -(-count // A_FILE), workers):
        final = REMADE / f"remade-{number:05d}.safetensors"
        if final.exists():
            continue
        chosen, made = [], []
        for seed in range(number * A_FILE, (number + 1) * A_FILE):
            chosen.append(seed % len(scenes))
            clean = latents[chosen[-1], 0].float().to(device)
            made.append(remake(model, encoders, clean, scenes[chosen[-1]], seed).cpu())
        checkpoint.save(final, {"latents": torch.stack(made).half(), "pictures": torch.tensor(chosen)}, {})
        print(final.name, flush=True)


if __name__ == "__main__":
    typer.run(main)
