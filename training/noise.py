"""Seamless 3-D noise: a periodic fractal volume that is made once and sampled anywhere.

Sampling a volume at points on the sphere (or on the ground plane) gives textures that are functions of the
direction alone, so they have no seam at the ±180° meridian and no pinch at the poles.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 128
"""Period of the volume, in cells along each axis."""


@lru_cache(maxsize=4)
def volume(device: str = "cpu", exponent: float = 2.1, seed: int = 7) -> Tensor:
    """A fractal volume (1, 1, CELLS+1, CELLS+1, CELLS+1), periodic, mean 0, standard deviation 1.

    Spectral synthesis: white noise times |k|^-exponent in Fourier space (exponent 2.1 is a fractal field with
    Hurst exponent 0.6 in three dimensions). The last cell repeats the first so that linear interpolation wraps.
    """
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(CELLS, CELLS, CELLS, generator=generator)
    k = torch.fft.fftfreq(CELLS, 1 / CELLS)
    k_half = torch.fft.rfftfreq(CELLS, 1 / CELLS)
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k_half[None, None, :] ** 2).sqrt()
    gain = radius.clamp(min=3.0) ** -exponent
    gain[0, 0, 0] = 0
    field = torch.fft.irfftn(torch.fft.rfftn(white) * gain, s=white.shape)
    field = field / field.std()
    return F.pad(field[None, None], (0, 1, 0, 1, 0, 1), mode="circular").to(device)


def sample(points: Tensor, offset: Tensor) -> Tensor:
    """Noise at `points` (..., 3), in cells, shifted by `offset` (3,). Returns (...), about N(0, 1)."""
    cells = torch.remainder(points + offset, CELLS) * (2 / CELLS) - 1
    grid = cells.reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(volume(str(points.device)), grid, mode="bilinear", align_corners=True)
    return values.reshape(points.shape[:-1])
