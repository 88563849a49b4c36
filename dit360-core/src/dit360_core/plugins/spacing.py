"""Where the noise levels of a run lie: a spacing, then the model's own time shift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dit360_core.plugins.offers import SchedulerSettings


def noise_levels(settings: SchedulerSettings, steps: int, tokens: int) -> list[float]:
    """``steps + 1`` falling noise levels, the first 1, the last exactly 0.

    settings: whose ``timestep_schedule`` spaces them and whose ``shift`` moves them as the model was trained.
    steps: of the run, 1 or more.
    tokens: image tokens of the picture, which the shift goes by.
    """
    return [settings.shift(sigma, tokens) for sigma in spaced(settings.timestep_schedule, steps)] + [0.0]


def spaced(schedule: str, steps: int) -> list[float]:
    """``steps`` noise levels falling from 1, before the model's time shift; the final 0 is not among them.

    With u = i/steps: linear 1 − u (what FLUX uses), quadratic (1 − u)², cosine cos(πu/2). Quadratic takes its small
    steps near the picture, cosine near the noise.
    """
    u = [i / steps for i in range(steps)]
    if schedule == "quadratic":
        return [(1.0 - x) ** 2 for x in u]
    if schedule == "cosine":
        return [math.cos(math.pi * x / 2.0) for x in u]
    return [1.0 - x for x in u]
