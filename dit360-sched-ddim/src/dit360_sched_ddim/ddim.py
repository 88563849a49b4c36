"""DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16) with the signal 1 − σ and the noise σ."""

from __future__ import annotations

import math

import torch
from dit360_core.plugins import SchedulerSettings, noise_levels


def fresh_share(sigma: float, sigma_next: float, eta: float) -> float:
    """s: the standard deviation of the fresh noise in a step from ``sigma`` down to ``sigma_next``.

    The old noise keeps √(σ'² − s²). At σ = 1, where nothing is known of the picture yet, s = η·σ'; at σ' = 0 it is 0.
    """
    if sigma_next == 0.0:
        return 0.0
    kept = (1.0 - sigma) * sigma_next / ((1.0 - sigma_next) * sigma)
    return eta * sigma_next * math.sqrt(max(0.0, 1.0 - kept * kept))


class Ddim:
    """See the README of this distribution for the formulas."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings

    def sigmas(self, steps: int, tokens: int) -> list[float]:
        return noise_levels(self._settings, steps, tokens)

    def step(
        self,
        velocity: torch.Tensor,
        sigma: float,
        sigma_next: float,
        x: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        share = fresh_share(sigma, sigma_next, self._settings.eta)
        expected = x - sigma * velocity
        noise = x + (1.0 - sigma) * velocity
        out = (1.0 - sigma_next) * expected + math.sqrt(sigma_next**2 - share**2) * noise
        if share == 0.0:
            return out
        # On the CPU, whatever device x is on, so that a seed means one picture everywhere.
        fresh = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)
        return out + share * fresh
