"""What is kept gets its own pixels again once a picture is decoded."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from dit360_core.pipeline.editing.canvas import Canvas
from dit360_core.pipeline.planes import pixels_of
from dit360_core.sphere.distance import distance
from dit360_core.sphere.filling import larger, spread

MATCHED = 64
"""Pixels from the rim over which a difference in colour fades away."""


def pasted(pixels: torch.Tensor, canvas: Canvas, *, match: bool) -> torch.Tensor:
    """``(1, 3, H, W)`` in 0 … 1: a decoded picture with the kept part's own pixels.

    pixels: ``(1, 3, H, W)`` in 0 … 1, as decoded.
    canvas: what is kept, of the same size.
    match: carry the difference at the rim into what was made: a membrane that is held at the rim and fades.
    """
    if not bool(canvas.paste.any()):
        return pixels
    made = pasted_over(pixels[0], pixels_of(canvas.picture.image), canvas.paste, match=match)
    floats = canvas.picture.floats
    if floats is not None:
        # What is kept whole is kept with all its bits. The rest is computed of 8, so that a picture in memory and its
        # file are edited alike.
        made = torch.where(canvas.paste == 1, torch.from_numpy(floats).permute(2, 0, 1), made)
    return made[None]


def pasted_over(made: torch.Tensor, own: torch.Tensor, paste: torch.Tensor, *, match: bool) -> torch.Tensor:
    """``(3, H, W)`` in 0 … 1: what was made, with a share of each pixel of what it was made from.

    made, own: ``(3, H, W)`` in 0 … 1.
    paste: ``(H, W)`` in 0 … 1; 1: bit for bit.
    match: as for :func:`pasted`.
    """
    if match and bool(paste.any()) and not bool((paste == 1).all()):
        made = (made + _membrane(own - made, paste)).clamp(0, 1)
    return torch.where(paste == 1, own, paste * own + (1 - paste) * made)


def _membrane(difference: torch.Tensor, paste: torch.Tensor) -> torch.Tensor:
    """``(3, H, W)``: the difference at the rim, carried on smoothly and fading with the distance from it."""
    width = paste.shape[1]
    most = MATCHED / width * 360
    # As smooth as a latent is wide: the grain of either picture is none of its business.
    factor = math.gcd(8, *paste.shape)
    coarse = F.avg_pool2d((paste * difference)[None], factor)[0]
    weight = F.avg_pool2d(paste[None, None], factor)[0, 0]
    known = (weight > 0.1).float() * weight
    smooth = spread(coarse / weight.clamp(min=1e-6), known)
    carried = larger(smooth[None], factor)[0]
    away = distance(paste > 0.5, most)
    return carried * (1 - (away / most).clamp(max=1)) ** 2
