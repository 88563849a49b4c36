"""How far it is, on the sphere, from each pixel of a panorama to an area: what growth, softness and feather go by."""

from __future__ import annotations

import math

import torch

from dit360_core.sphere.filling import larger

FINEST = 1024
"""Rows at which distances are found; of larger panoramas they are interpolated, which errs by less than 0.2 degrees."""


def distance(area: torch.Tensor, most: float) -> torch.Tensor:
    """``(H, 2H)`` float32: degrees of arc from each pixel's centre to the nearest one of an area.

    area: ``(H, 2H)`` bool.
    most: degrees, 0 … 180; what is farther is infinite.

    The nearest is found in each row by whole columns and then over all rows that are near enough, so that a panorama
    that is rolled has the same numbers, rolled, bit for bit. Longitude wraps, and beyond a pole lies the other side.
    """
    height, width = area.shape
    if height > FINEST and height % 2 == 0:
        larger = _doubled(distance(_halved(area), most + 180 / height), most)
        return torch.where(area, torch.zeros_like(larger), larger)
    beside = _columns_to(area)
    # (H, W/2 + 1): columns apart → cosine of the difference in longitude; none in the row: farther than anything.
    turn = torch.cat([torch.cos(torch.arange(width // 2 + 1, dtype=torch.float64) * (2 * math.pi / width)), _NEVER])
    latitude = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
    sine, cosine = torch.sin(latitude), torch.cos(latitude)
    reach = min(height - 1, math.ceil(most / 180 * height))
    nearest = torch.full((height, width), -math.inf, dtype=torch.float64)
    there = (beside <= width // 2).any(1)
    towards = turn[beside]
    for offset in range(-reach, reach + 1):
        here = torch.arange(max(0, -offset), min(height, height - offset))
        here = here[there[here + offset]]
        if not len(here):
            continue
        other = here + offset
        # The cosine of the angle between two directions.
        found = (sine[here] * sine[other])[:, None] + (cosine[here] * cosine[other])[:, None] * towards[other]
        nearest[here] = torch.maximum(nearest[here], found)
    degrees = torch.rad2deg(torch.acos(nearest.clamp(-1, 1)))
    degrees = torch.where(torch.isfinite(nearest) & (degrees <= most), degrees, torch.full_like(degrees, math.inf))
    return torch.where(area, torch.zeros_like(degrees), degrees).float()


_NEVER = torch.tensor([-math.inf], dtype=torch.float64)


def _columns_to(area: torch.Tensor) -> torch.Tensor:
    """``(H, W)`` int64: columns to the nearest pixel of the area in its row, around; W/2 + 1 if there is none."""
    width = area.shape[1]
    column = torch.arange(3 * width)
    thrice = area.repeat(1, 3)
    before = torch.where(thrice, column, torch.full_like(column, -3 * width)).cummax(1).values
    # The last one at or before a column, and, read from behind, the first at or after it.
    behind = torch.where(thrice.flip(1), column, torch.full_like(column, -3 * width)).cummax(1).values.flip(1)
    apart = torch.minimum(column - before, column.flip(0) - behind)[:, width : 2 * width]
    return apart.clamp(max=width // 2 + 1)


def _halved(area: torch.Tensor) -> torch.Tensor:
    """Half as many rows and columns: a pixel is of the area if one of its four is."""
    height, width = area.shape
    return area.view(height // 2, 2, width // 2, 2).any(3).any(1)


def _doubled(degrees: torch.Tensor, most: float) -> torch.Tensor:
    """Twice as many rows and columns, interpolated where all neighbours are known."""
    finite = torch.where(degrees.isinf(), torch.full_like(degrees, 2 * most + 1), degrees)
    found = larger(finite[None, None], 2)[0, 0]
    return torch.where(found <= most, found, torch.full_like(found, math.inf))
