"""Flow matching: Euler steps along the model's velocity, over noise levels spaced as asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dit360_core.hookspecs import hookimpl
from dit360_core.offers import Scheduler, SchedulerSettings

if TYPE_CHECKING:
    import torch


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


class FlowMatch:
    """x' = x + (σ' − σ)·v, the Euler method for dx/dσ = v (Lipman et al. 2023)."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._shift = settings.shift
        self._schedule = settings.timestep_schedule

    def sigmas(self, steps: int, tokens: int) -> list[float]:
        return [self._shift(sigma, tokens) for sigma in spaced(self._schedule, steps)] + [0.0]

    def step(
        self,
        velocity: torch.Tensor,
        sigma: float,
        sigma_next: float,
        x: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        return x + (sigma_next - sigma) * velocity


@hookimpl
def dit360_schedulers() -> Iterable[Scheduler]:
    yield Scheduler(
        name="flow_match",
        api=1,
        priority=10,
        summary="Euler steps of the flow, as FLUX was trained",
        honours=frozenset({"timestep_schedule"}),
        load=FlowMatch,
    )
