"""diffusers' multistep solvers in flow prediction, fed with our noise levels as they are.

Their own ``set_timesteps`` rounds times to whole numbers, which puts a floor under their error, and shifts levels that
were shifted already. So the levels are set directly, and each step is told its index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from dit360_core.plugins import SchedulerSettings, noise_levels


class Multistep:
    """A solver of diffusers that keeps what it needs of the steps before."""

    def __init__(self, solver: Any, settings: SchedulerSettings) -> None:
        self._solver, self._settings = solver, settings
        self._levels: list[float] = []

    def sigmas(self, steps: int, tokens: int) -> list[float]:
        self._levels = noise_levels(self._settings, steps, tokens)
        return self._levels

    def step(
        self,
        velocity: torch.Tensor,
        sigma: float,
        sigma_next: float,
        x: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        solver = self._solver
        if solver.step_index is None:
            levels = with_signal(self._levels)
            solver.num_inference_steps = len(levels) - 1
            solver.sigmas = torch.tensor(levels, dtype=torch.float64)
            solver.timesteps = torch.tensor(self._levels[:-1], dtype=torch.float64) * 1000
            # A run may begin in the middle (denoise); there the solver has no steps before it yet.
            solver.set_begin_index(self._levels.index(sigma))
        # Its levels are float64, which MPS does not have; latents are small.
        there = "cpu" if x.device.type == "mps" else x.device
        out: torch.Tensor = solver.step(velocity.to(there), sigma * 1000, x.to(there), return_dict=False)[0]
        return out.to(x.device, x.dtype)


def with_signal(levels: Sequence[float]) -> list[float]:
    """Noise levels of which each leaves some signal: the formulas take the logarithm of 1 − σ, and divide by its steps.

    levels: σ from high to low, the last 0. The first gets a thousandth of the second's signal, at most 1e-6; where
    levels crowd so near to 1 that float64 has not that many numbers there, each is below the one before nevertheless.
    """
    first = min(levels[0], 1.0 - min(1e-6, (1.0 - levels[1]) / 1000))
    apart, above = [], 1.0
    for level in (first, *levels[1:]):
        above = min(level, math.nextafter(above, 0.0))
        apart.append(above)
    return apart


def unipc(settings: SchedulerSettings) -> Multistep:
    """Zhao et al. 2023, arXiv 2302.04867."""
    from diffusers import UniPCMultistepScheduler

    return Multistep(_made(UniPCMultistepScheduler, solver_order=2), settings)


def dpmpp_2m(settings: SchedulerSettings) -> Multistep:
    """Lu et al. 2022, arXiv 2211.01095."""
    from diffusers import DPMSolverMultistepScheduler

    return Multistep(_made(DPMSolverMultistepScheduler, solver_order=2), settings)


def _made(cls: Any, **options: Any) -> Any:
    return cls(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, **options)
