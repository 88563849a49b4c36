"""What a panorama must look like because it is a sphere: the part of a prediction that a row of latitude can hold."""

from __future__ import annotations

import functools
import math

import torch

_FINEST, _BROADEST = 3, 5
"""A wave of m periods around a row is its own where that has ``_FINEST · m + _BROADEST`` pixels of the equator."""


def on_sphere(latents: torch.Tensor) -> torch.Tensor:
    """``(B, C, h, w)`` → the same with each row as smooth along longitude as its circle on the sphere is small.

    A row at latitude φ is a circle of cos φ times the equator's length, drawn with as many columns. What varies faster
    along it is finer than the equator's pixels: on the top and bottom faces of a cube map it is seen as rays around the
    pole. Frequencies above w/2·cos φ are taken away, with a soft edge.

    Nearer to a pole than a wave of m periods can be seen, it goes on as in a smooth function on the sphere: with the
    m-th power of the circle's radius (the first term of spherical harmonics there). So the pole itself has one value,
    whatever windows say that look at it from several sides.
    """
    height, width = latents.shape[-2:]
    dtype = torch.promote_types(latents.dtype, torch.float32)
    row, share = (table.to(latents.device) for table in _kept(height, width))
    spectrum = torch.fft.rfft(latents.to(dtype), dim=-1)
    source = spectrum.gather(-2, row.expand_as(spectrum))
    smooth: torch.Tensor = torch.fft.irfft(source * share.to(dtype), n=width, dim=-1)
    return smooth.to(latents.dtype)


@functools.lru_cache(maxsize=16)
def _kept(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both ``(height, width//2 + 1)``: the row from which each frequency of each row is taken, and the share of it."""
    radius = torch.sin((torch.arange(height, dtype=torch.float64) + 0.5) / height * math.pi)
    frequency = torch.arange(width // 2 + 1, dtype=torch.float64)
    most = (width / 2 * radius)[:, None]
    share = (1.5 - frequency / most.clamp(min=0.5)).mul(2).clamp(0.0, 1.0)
    # The first row of the upper half, from the pole on, in which a wave is seen.
    upper = radius[: (height + 1) // 2]
    seen = ((_FINEST * frequency + _BROADEST) / width).clamp(max=float(upper[-1]))
    first = torch.searchsorted(upper, seen)
    first[0] = 0  # what is the same all around is seen everywhere
    own = torch.arange(height)
    near = torch.minimum(own, height - 1 - own)[:, None]
    inner = torch.maximum(near, first[None])
    row = torch.where(own[:, None] < height / 2, inner, height - 1 - inner)
    growth = (radius[:, None] / radius[inner]) ** frequency
    return row, share.gather(0, row) * growth
