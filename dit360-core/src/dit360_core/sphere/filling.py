"""What lies around known pixels of a panorama goes on into those that are not known, over the meridian and the poles.

A pyramid whose levels keep all their pixels: each is the one before, blurred with holes (``[1, 4, 6, 4, 1] / 16``, its
taps 1, 2, 4, … pixels apart: the "à trous" algorithm, Holschneider et al. 1989). Going up, what is known spreads; going
down, each level fills what the finer one does not know (push-pull: Grossman & Cohen 1998, "The Lumigraph"). A panorama
that is rolled is filled with the same numbers, rolled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dit360_core.sphere.poles import without_rays

COARSE = 128
"""Rows at least at which pixels are filled: what is filled is smooth."""


def filled(picture: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """``(C, H, 2H)`` float32: a panorama whose unknown pixels go on from the known ones, ever smoother.

    picture: ``(C, H, 2H)``; where nothing is known its numbers do not count.
    known: ``(H, 2H)`` in 0 … 1, how much of each pixel is known; 0 everywhere gives 0.
    """
    around = spread(picture, known)
    return known * picture.float() + (1 - known) * around


def spread(picture: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """``(C, H, 2H)`` float32: as :func:`filled`, but smooth where pixels are known too.

    picture, known: as for :func:`filled`.
    """
    factor = _factor(known.shape[0])
    weight = F.avg_pool2d(known.float()[None, None], factor)
    values = F.avg_pool2d((known * picture.float())[None], factor) / weight.clamp(min=1e-6)
    values, weight = torch.where(weight > 1e-4, values, torch.zeros_like(values)), (weight > 1e-4) * weight
    if not bool(weight.any()):
        return torch.zeros_like(picture, dtype=torch.float32)
    smooth = without_rays(_push_pull(values, weight))
    return larger(smooth, factor)[0]


def _factor(height: int) -> int:
    """The largest power of two that leaves COARSE rows and divides the height."""
    factor = 1
    while height % (2 * factor) == 0 and height // (2 * factor) >= COARSE:
        factor *= 2
    return factor


def _push_pull(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``(1, C, h, w)``: filled. weight ``(1, 1, h, w)`` in 0 … 1."""
    levels = [(values, weight)]
    apart = 1
    while apart < values.shape[-1]:
        sums = _blurred(torch.cat([values * weight, weight], dim=1), apart)
        weight = sums[:, -1:]
        values = sums[:, :-1] / weight.clamp(min=1e-12)
        # What was found once counts whole from here on, or its share would fall with each level.
        weight = (4 * weight).clamp(max=1)
        levels.append((values, weight))
        apart *= 2
    found = levels[-1][0]
    for values, weight in reversed(levels[:-1]):
        # Blurred as the level was, or the places of its taps would be seen as stripes.
        apart //= 2
        found = weight * values + (1 - weight) * _blurred(found, apart)
    return found


def _blurred(picture: torch.Tensor, apart: int) -> torch.Tensor:
    """``(1, C, h, w)``: blurred along both sides, with taps so many pixels apart."""
    height = picture.shape[-2]
    taps = tuple(zip((-2, -1, 0, 1, 2), (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16), strict=True))
    across = sum((share * picture.roll(at * apart, -1) for at, share in taps), torch.zeros_like(picture))
    # Beyond a pole lies the other side: the whole meridian circle is two columns, one of them upside down.
    circle = torch.cat([across, across.roll(across.shape[-1] // 2, -1).flip(-2)], dim=-2)
    down = sum((share * circle.roll(at * apart, -2) for at, share in taps), torch.zeros_like(circle))
    return down[..., :height, :]


def larger(picture: torch.Tensor, factor: int) -> torch.Tensor:
    """``(1, C, factor·H, factor·W)``: bilinear, over the meridian and the poles.

    picture: ``(1, C, H, W)``.
    """
    if factor == 1:
        return picture
    turned = picture.roll(picture.shape[-1] // 2, -1)
    tall = torch.cat([turned[..., :1, :], picture, turned[..., -1:, :]], dim=-2)
    around = torch.cat([tall[..., -1:], tall, tall[..., :1]], dim=-1)
    found = F.interpolate(around, scale_factor=factor, mode="bilinear", align_corners=False)
    return found[..., factor:-factor, factor:-factor]
