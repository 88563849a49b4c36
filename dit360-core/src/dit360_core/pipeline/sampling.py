"""From noise to latents: the model as a solver sees it, and where a run begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import Dit360Error
from dit360_core.pipeline.stages import Conditioning
from dit360_core.sphere.grid import Grid, rotation
from dit360_core.sphere.poles import on_sphere

if TYPE_CHECKING:
    import torch

    from dit360_core.models.embedding import Embedding
    from dit360_core.models.flux.engine import Engine, Velocity
    from dit360_core.plugins.offers import FlowModel, SchedulerImplementation


@attrs.frozen(kw_only=True)
class Wishes:
    """How the model is asked. rotating: the panorama is turned by another angle each time. prompts: that the picture
    follows. The others: options."""

    prompts: int = 1
    true_guidance: float = 1.0
    rotating: bool = False
    yaw_consistency: float = 0.0
    cube_consistency: float = 0.0

    @property
    def calls(self) -> int:
        """Of the transformer, each time that a solver asks."""
        return (self.prompts + (self.true_guidance > 1)) * (2 if self.yaw_consistency > 0 else 1)


class Asked:
    """``model(x, sigma) -> velocity`` as a solver sees it: guided as wished, and counted.

    x ``(1, tokens, channels)``, real columns only. calls: of the transformer, so far.
    """

    def __init__(
        self,
        engine: Engine,
        grid: Grid,
        velocity: Velocity,
        conditioning: Conditioning,
        wishes: Wishes,
        attempt: Callable[[Callable[[], torch.Tensor]], torch.Tensor] = lambda evaluate: evaluate(),
    ) -> None:
        """attempt: runs one evaluation, again if memory ran out and something could be done about it."""
        self._engine, self._grid, self._velocity = engine, grid, velocity
        self._conditioning, self._wishes, self._attempt = conditioning, wishes, attempt
        self._times = 0
        self.calls = 0
        self._expected: torch.Tensor | None = None
        self._fresh = True

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        columns = 2 * self._grid.columns
        turned = rotation(self._times, columns) if self._wishes.rotating else 0
        self._times += 1
        v = self._ask(x, sigma, turned)
        if self._wishes.yaw_consistency > 0:
            # Seen from the other side: what a model says of its edges, it then says of the middle too.
            behind = self._ask(x, sigma, (turned + columns // 2) % columns, " from behind")
            v = v + self._wishes.yaw_consistency / 2 * (behind - v)
        if self._wishes.cube_consistency > 0 and sigma > 0:
            # x_σ − σ·v is what is left when all noise is taken away at once.
            picture = self._engine.unpack(x - sigma * v, self._grid)
            beside = self._engine.pack(picture - on_sphere(picture))
            v = v + self._wishes.cube_consistency / sigma * beside
        if self._fresh:
            self._expected, self._fresh = x - sigma * v, False
        return v

    def _ask(self, x: torch.Tensor, sigma: float, turned: int, view: str = "") -> torch.Tensor:
        # Views are told apart by name, as branches are: diffusers' caches compare a call with the one before it.
        v = self._about(self._conditioning.positive, x, sigma, turned, f"cond{view}")
        for i, other in enumerate(self._conditioning.others, start=2):
            v = v + (self._about(other, x, sigma, turned, f"cond {i}{view}") - v) / i
        negative, guidance = self._conditioning.negative, self._wishes.true_guidance
        if guidance > 1 and negative is not None:
            against = self._about(negative, x, sigma, turned, f"uncond{view}")
            v = against + guidance * (v - against)
        return v

    def _about(self, embedding: Embedding, x: torch.Tensor, sigma: float, turned: int, branch: str) -> torch.Tensor:
        self.calls += 1
        # Not a lambda: what it closes over stays with an exception whatever is cleared.
        return self._attempt(partial(self._velocity, x, sigma, embedding, branch, turned))

    def expected(self) -> torch.Tensor | None:
        """The picture as the model expected it the first time that it was asked since the last time of this.

        If it was not asked since, what it expected before; None if it was never asked.
        """
        self._fresh = True
        return self._expected


def solve(
    scheduler: SchedulerImplementation, model: Asked, x: torch.Tensor, sigmas: list[float], generator: torch.Generator
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """After each step: how many are done, x, and the picture as it was expected before it."""
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas), start=1):
        x = one_step(scheduler, model, x, sigma, sigma_next, generator)
        yield i, x, model.expected()


def one_step(
    scheduler: Any, model: FlowModel, x: torch.Tensor, sigma: float, sigma_next: float, generator: torch.Generator
) -> torch.Tensor:
    """x at ``sigma_next``, by a solver of either kind."""
    if hasattr(scheduler, "advance"):
        return scheduler.advance(model, x, sigma, sigma_next, generator)  # type: ignore[no-any-return]
    return scheduler.step(model(x, sigma), sigma, sigma_next, x, generator)  # type: ignore[no-any-return]


def steps_of_a_whole(steps: int, denoise: float) -> int:
    """How many steps a whole run has of which these are the share ``denoise``, so that not all of it is theirs."""
    return steps if denoise in (0.0, 1.0) else max(steps + 1, math.ceil(steps / denoise))


def levels(scheduler: SchedulerImplementation, steps: int, tokens: int, name: str, denoise: float = 1.0) -> list[float]:
    """``steps + 1`` noise levels to 0, from 1 or, for a part of the way, from where so many steps of a whole run begin.

    denoise: 0 … 1, the share of a whole run that these steps are. Raises Dit360Error for levels that are none.
    """
    if denoise == 0.0:
        return [0.0]
    whole = steps_of_a_whole(steps, denoise)
    return _checked(scheduler.sigmas(whole, tokens), whole, name)[-(steps + 1) :]


def _checked(sigmas: Any, steps: int, name: str) -> list[float]:
    """Raises Dit360Error unless a scheduler returned ``steps + 1`` falling levels that end at exactly 0."""
    # One that never stops must not hang.
    found = [float(sigma) for sigma in itertools.islice(sigmas, steps + 2)] if sigmas is not None else []
    falling = all(a > b for a, b in itertools.pairwise(found))
    if len(found) != steps + 1 or found[-1] != 0 or not falling or not 0 < found[0] <= 1:
        raise Dit360Error(
            f"The scheduler {name!r} returned noise levels that do not fall from at most 1 to exactly 0 in {steps} "
            "steps; report it to its author, or choose another scheduler."
        )
    return found
