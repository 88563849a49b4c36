"""What is measured of edits: errors in decibels, and the steps along contours around a border."""

from __future__ import annotations

import torch

CONTOURS = range(0, 41, 4)
"""Pixels outside of a border at which steps are looked at."""


def decibels(one: torch.Tensor, other: torch.Tensor, where: torch.Tensor) -> float:
    """The peak signal-to-noise ratio over an area."""
    return float(-10 * torch.log10(((one - other) ** 2).mean(0)[where].mean()))


def ordinary_step(picture: torch.Tensor) -> float:
    """The mean difference of neighbours, all around."""
    across, down = _steps(picture)
    return float(torch.cat([across.flatten(), down.flatten()]).mean())


def contours(picture: torch.Tensor, away: torch.Tensor) -> dict[int, float]:
    """The mean step across each contour around a border.

    picture: ``(3, H, W)``.
    away: ``(H, W)`` pixels from the border, below 0 inside.
    """
    across, down = _steps(picture)
    beside, below = away.roll(-1, -1), away[1:]
    found = {}
    for level in CONTOURS:
        at = level + 0.5 if level else 0.0
        over = across[(torch.minimum(away, beside) <= at) & (torch.maximum(away, beside) > at)]
        under = down[(torch.minimum(away[:-1], below) <= at) & (torch.maximum(away[:-1], below) > at)]
        steps = torch.cat([over, under])
        if len(steps):
            found[level] = float(steps.mean())
    return found


def _steps(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (picture - picture.roll(-1, -1)).abs().mean(0), (picture[:, :-1] - picture[:, 1:]).abs().mean(0)
