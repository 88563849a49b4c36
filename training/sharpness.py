# diffusers does not type its models.
# mypy: disable-error-code="attr-defined,no-any-return,no-untyped-call"
"""What PSNR and a judge miss: how much detail is left at each scale, and whether structure is made or melts."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from diffusers import FluxPipeline
from torch import Tensor

from training.captions import caption
from training.flux_parts import pack, schedule, unpack
from training.sample import encode
from training.scenes import Scene
from training.trainer import velocity

BANDS = ((4, 8), (8, 16), (16, 32), (32, 64), (64, 96), (96, 128))
"""Cycles in a picture's height."""
RESTARTS = (0.49, 0.70, 0.84)
"""Noise levels from which held-out pictures are finished again."""


def power(pictures: Tensor) -> Tensor:
    """Power (N, bands) of the brightness of pictures (N, 3, H, W), their poles faded out by a window."""
    height = pictures.shape[-2]
    grey = pictures.mean(1)
    grey = grey - grey.mean((-1, -2), keepdim=True)
    spectrum = torch.fft.fft2(grey * torch.hann_window(height).view(1, -1, 1)).abs() ** 2
    down = torch.fft.fftfreq(height, 1 / height).view(-1, 1)
    across = torch.fft.fftfreq(pictures.shape[-1], 1 / height).view(1, -1)
    radius = (down**2 + across**2).sqrt()
    return torch.stack([spectrum[:, (radius >= low) & (radius < high)].sum(1) for low, high in BANDS], 1)


def ratios(made: Tensor, wanted: Tensor) -> dict[str, float]:
    """Band → power of ``made`` over that of ``wanted``, both (N, 3, H, W): the median of the pairs.

    Power varies widely from picture to picture, so that a few would decide a sum.
    """
    share = (power(made) / power(wanted).clamp(min=1e-9)).median(0).values
    return {f"power_{low}_{high}": float(value) for (low, high), value in zip(BANDS, share, strict=True)}


def reconstructed(pipe: FluxPipeline, pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] encoded and decoded again."""
    with torch.no_grad():
        parts = [pipe.vae.decode(pipe.vae.encode(part).latent_dist.mode()).sample for part in pictures.split(4)]
    return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def restarted(pipe: FluxPipeline, pictures: Tensor, scenes: list[Scene], sigma: float, steps: int = 28) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] noised to ``sigma`` and finished with their captions."""
    found = []
    config = pipe.vae.config
    for number, (picture, scene) in enumerate(zip(pictures.split(1), scenes, strict=True)):
        latents = (pipe.vae.encode(picture).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        clean = pack(latents)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(number))
        words, pooled = encode(pipe, [caption(scene, random.Random(number))], 64)
        whole = schedule(steps, clean.shape[1] * (clean.shape[2] + 2))
        levels = torch.cat((torch.tensor([sigma]), whole[whole < sigma]))
        grid = (1 - sigma) * clean + sigma * noise
        for now, then in pairwise(levels):
            v = velocity(pipe.transformer, grid, now.view(1), words, pooled, torch.ones(1)).float()
            grid = grid + (then - now) * v
        latents = unpack(grid) / config.scaling_factor + config.shift_factor
        found.append(pipe.vae.decode(latents).sample)
    return torch.cat(found).clamp(-1, 1)
