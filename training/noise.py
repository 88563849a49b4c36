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
def volume(device: str = "cpu", exponent: float = 2.1, longest: float = 1.0, seed: int = 7) -> Tensor:
    """A fractal volume (1, 1, CELLS+1, CELLS+1, CELLS+1), periodic, mean 0, standard deviation 1.

    Spectral synthesis: white noise times |k|^-exponent in Fourier space (exponent 2.1 is a fractal field with
    Hurst exponent 0.6 in three dimensions). The last cell repeats the first so that linear interpolation wraps.

    longest: the longest wave, as a share of the volume; 1 keeps all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(CELLS, CELLS, CELLS, generator=generator)
    k = torch.fft.fftfreq(CELLS, 1 / CELLS)
    k_half = torch.fft.rfftfreq(CELLS, 1 / CELLS)
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k_half[None, None, :] ** 2).sqrt()
    gain = radius.clamp(min=3.0) ** -exponent
    gain[radius < 1 / longest] = 0
    gain[0, 0, 0] = 0
    field = torch.fft.irfftn(torch.fft.rfftn(white) * gain, s=white.shape)
    field = field / field.std()
    return F.pad(field[None, None], (0, 1, 0, 1, 0, 1), mode="circular").to(device)


def sample(points: Tensor, offset: Tensor) -> Tensor:
    """Noise at `points` (..., 3), in cells, shifted by `offset` (3,). Returns (...), about N(0, 1)."""
    return _sample(volume(str(points.device)), points, offset)


def grain(points: Tensor, offset: Tensor, spacing: Tensor | float) -> Tensor:
    """Noise without broad waves, most of it 5 to 16 cells long: the texture of a surface; arguments as `octaves`'."""
    values = _sample(volume(str(points.device), 1.2, 1 / 8, 8), points, offset)
    return values * torch.exp(-((torch.as_tensor(spacing, device=points.device) / 3) ** 2))


def _sample(field: Tensor, points: Tensor, offset: Tensor) -> Tensor:
    cells = torch.remainder(points + offset, CELLS) * (2 / CELLS) - 1
    values = F.grid_sample(field, cells.reshape(1, 1, 1, -1, 3), mode="bilinear", align_corners=True)
    return values.reshape(points.shape[:-1])


def octaves(points: Tensor, offset: Tensor, spacing: Tensor | float, count: int, gain: float = 0.5) -> Tensor:
    """Noise at `points` (..., 3), in cells, with `count` finer copies, each twice as fine and `gain` times as strong.

    spacing (...) or a number: cells between neighbouring rays. What would be finer than that fades, so that it does
    not flicker from ray to ray. Returns (...), about N(0, 1) where all is seen.
    """
    total = torch.zeros(points.shape[:-1], device=points.device)
    weight = 0.0
    for number in range(count):
        scale, strength = 2.0**number, gain**number
        seen = torch.exp(-((torch.as_tensor(spacing, device=points.device) * scale) ** 2))
        total = total + strength * seen * sample(points * scale, offset + 17 * number)
        weight += strength**2
    return total / weight**0.5
