"""What a panorama must look like because it is a sphere: the part of a prediction that a row of latitude can hold."""

from __future__ import annotations

import functools
import math

import torch

_FINEST, _BROADEST = 3, 5
"""A wave of m periods around a row is its own where that has ``_FINEST · m + _BROADEST`` pixels of the equator."""


def without_rays(values: torch.Tensor) -> torch.Tensor:
    """``(B, C, h, w)`` → the same with each row as smooth along longitude as its circle on the sphere is small.

    A row at latitude φ is a circle of cos φ times the equator's length, drawn with as many columns. What varies faster
    along it is finer than the equator's pixels: on the top and bottom faces of a cube map it is seen as rays around the
    pole. Frequencies above w/2·cos φ are taken away, with a soft edge.
    """
    return _filtered(values, None, _kept(*values.shape[-2:]))


def on_sphere(latents: torch.Tensor) -> torch.Tensor:
    """``(B, C, h, w)`` → the same :func:`without_rays`, and with one value at each pole.

    Nearer to a pole than a wave of m periods can be seen, it goes on as in a smooth function on the sphere: with the
    m-th power of the circle's radius (the first term of spherical harmonics there). So the pole itself has one value,
    whatever windows say that look at it from several sides.
    """
    height, width = latents.shape[-2:]
    row, growth = _inward(height, width)
    return _filtered(latents, row, _kept(height, width).gather(0, row) * growth)


def _filtered(values: torch.Tensor, row: torch.Tensor | None, share: torch.Tensor) -> torch.Tensor:
    """Each frequency of each row times ``share``, taken from ``row``; None: from its own."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    spectrum = torch.fft.rfft(values.to(dtype), dim=-1)
    if row is not None:
        spectrum = spectrum.gather(-2, row.to(values.device).expand_as(spectrum))
    # Not every device has numbers of 64 bits.
    smooth: torch.Tensor = torch.fft.irfft(spectrum * share.to(dtype).to(values.device), n=values.shape[-1], dim=-1)
    return smooth.to(values.dtype)


def _radius(height: int) -> torch.Tensor:
    """``(height,)`` float64: of the rows' circles, the equator's being 1."""
    return torch.sin((torch.arange(height, dtype=torch.float64) + 0.5) / height * math.pi)


@functools.lru_cache(maxsize=16)
def _kept(height: int, width: int) -> torch.Tensor:
    """``(height, width//2 + 1)``: the share of each frequency that each row keeps; all of it at the equator."""
    most = (width / 2 * _radius(height))[:, None]
    frequency = torch.arange(width // 2 + 1, dtype=torch.float64)[None]
    kept: torch.Tensor = (1.5 - frequency / most.clamp(min=0.5)).mul(2).clamp(0.0, 1.0)
    return kept


@functools.lru_cache(maxsize=16)
def _inward(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both ``(height, width//2 + 1)``: the row that each frequency of each row is taken from, and how it shrinks."""
    radius = _radius(height)
    frequency = torch.arange(width // 2 + 1, dtype=torch.float64)
    # The first row of the upper half, from the pole on, in which a wave is seen.
    upper = radius[: (height + 1) // 2]
    seen = ((_FINEST * frequency + _BROADEST) / width).clamp(max=float(upper[-1]))
    first = torch.searchsorted(upper, seen)
    first[0] = 0  # what is the same all around is seen everywhere
    own = torch.arange(height)
    near = torch.minimum(own, height - 1 - own)[:, None]
    inner = torch.maximum(near, first[None])
    row = torch.where(own[:, None] < height / 2, inner, height - 1 - inner)
    return row, (radius[:, None] / radius[inner]) ** frequency
