"""From noise to latents: the model as a solver sees it, and where a run begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dit360_core.errors import Dit360Error
from dit360_core.stages import Conditioning
from dit360_core.wrap import rotation

if TYPE_CHECKING:
    import torch

    from dit360_core.flux.engine import Velocity
    from dit360_core.offers import SchedulerImplementation


class Asked:
    """``model(x, sigma) -> velocity``: guided, turned by another angle each time if so wished, and counted.

    x ``(1, tokens, channels)``, real columns only. columns: latent columns, among which to turn; 0: not at all.
    calls: of the transformer, two each time with true guidance.
    """

    def __init__(self, velocity: Velocity, conditioning: Conditioning, true_guidance: float, columns: int) -> None:
        self._velocity, self._conditioning = velocity, conditioning
        self._true_guidance, self._columns = true_guidance, columns
        self._times = 0
        self.calls = 0
        self._expected: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        turned = rotation(self._times, self._columns) if self._columns else 0
        self._times += 1
        v = self._ask(x, sigma, turned)
        if self._expected is None:
            # x_σ − σ·v is what is left when all noise is taken away at once.
            self._expected = x - sigma * v
        return v

    def _ask(self, x: torch.Tensor, sigma: float, turned: int) -> torch.Tensor:
        self.calls += 1
        v = self._velocity(x, sigma, self._conditioning.positive, turned=turned)
        negative = self._conditioning.negative
        if self._true_guidance > 1 and negative is not None:
            self.calls += 1
            against = self._velocity(x, sigma, negative, "uncond", turned)
            v = against + self._true_guidance * (v - against)
        return v

    def expected(self) -> torch.Tensor:
        """The picture as the model expected it the first time that it was asked since the last time of this."""
        assert self._expected is not None
        expected, self._expected = self._expected, None
        return expected


def solve(
    scheduler: SchedulerImplementation, model: Asked, x: torch.Tensor, sigmas: list[float], generator: torch.Generator
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """After each step: how many are done, x, and the picture as it was expected before it."""
    advance: Any = getattr(scheduler, "advance", None)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas), start=1):
        if advance is not None:
            x = advance(model, x, sigma, sigma_next, generator)
        else:
            x = scheduler.step(model(x, sigma), sigma, sigma_next, x, generator)
        yield i, x, model.expected()


def levels(scheduler: SchedulerImplementation, steps: int, tokens: int, name: str, denoise: float = 1.0) -> list[float]:
    """``steps + 1`` noise levels to 0, from 1 or, for a part of the way, from where so many steps of a whole run begin.

    denoise: 0 … 1, the share of a whole run that these steps are. Raises Dit360Error for levels that are none.
    """
    if denoise == 0.0:
        return [0.0]
    whole = max(steps, round(steps / denoise))
    return _checked(scheduler.sigmas(whole, tokens), whole, name)[-(steps + 1) :]


def _checked(sigmas: Any, steps: int, name: str) -> list[float]:
    """Raises Dit360Error unless a scheduler returned ``steps + 1`` falling levels that end at exactly 0."""
    found = [float(sigma) for sigma in sigmas] if sigmas is not None else []
    falling = all(a > b for a, b in itertools.pairwise(found))
    if len(found) != steps + 1 or found[-1] != 0 or not falling or not 0 < found[0] <= 1:
        raise Dit360Error(
            f"The scheduler {name!r} returned noise levels that do not fall from at most 1 to exactly 0 in {steps} "
            "steps; report it to its author, or choose another scheduler."
        )
    return found
