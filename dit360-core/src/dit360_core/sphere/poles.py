"""What a panorama must look like because it is a sphere: the part of a prediction that a row of latitude can hold."""

from __future__ import annotations

import functools
import math

import torch


def on_sphere(latents: torch.Tensor) -> torch.Tensor:
    """``(B, C, h, w)`` → the same with each row as smooth along longitude as its circle on the sphere is small.

    A row at latitude φ is a circle of cos φ times the equator's length, drawn with as many columns. What varies faster
    along it is finer than the equator's pixels: on the top and bottom faces of a cube map it is seen as rays around the
    pole. Frequencies above w/2·cos φ are taken away, with a soft edge.
    """
    height, width = latents.shape[-2:]
    kept = _kept(height, width).to(latents.device, torch.promote_types(latents.dtype, torch.float32))
    spectrum = torch.fft.rfft(latents.to(kept.dtype), dim=-1) * kept
    smooth: torch.Tensor = torch.fft.irfft(spectrum, n=width, dim=-1)
    return smooth.to(latents.dtype)


@functools.lru_cache(maxsize=16)
def _kept(height: int, width: int) -> torch.Tensor:
    """``(height, width//2 + 1)``: the share of each frequency that each row keeps; all of it at the equator."""
    latitude = (torch.arange(height, dtype=torch.float64) + 0.5) / height * math.pi - math.pi / 2
    most = (width / 2 * torch.cos(latitude))[:, None]
    frequency = torch.arange(width // 2 + 1, dtype=torch.float64)[None]
    kept: torch.Tensor = (1.5 - frequency / most.clamp(min=0.5)).mul(2).clamp(0.0, 1.0)
    return kept
