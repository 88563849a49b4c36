"""Flow matching: solvers of dx/dσ = v over noise levels spaced as asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dit360_core.plugins import FlowModel, Scheduler, SchedulerImplementation, SchedulerSettings, hookimpl, noise_levels

if TYPE_CHECKING:
    import torch


class FlowMatch:
    """x' = x + (σ' − σ)·v, the Euler method for dx/dσ = v (Lipman et al. 2023)."""

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
        return x + (sigma_next - sigma) * velocity


class Heun(FlowMatch):
    """The mean of the velocities at both ends of a step: second order, two evaluations (Heun 1900).

    The last step, to σ = 0, is Euler's: what the model says of a picture without noise was hardly trained.
    """

    def advance(
        self, model: FlowModel, x: torch.Tensor, sigma: float, sigma_next: float, generator: torch.Generator
    ) -> torch.Tensor:
        velocity = model(x, sigma)
        there = x + (sigma_next - sigma) * velocity
        if sigma_next == 0.0:
            return there
        return x + (sigma_next - sigma) * (velocity + model(there, sigma_next)) / 2


def _unipc(settings: SchedulerSettings) -> SchedulerImplementation:
    from dit360_core.plugins.builtin.solvers import unipc

    return unipc(settings)


def _dpmpp_2m(settings: SchedulerSettings) -> SchedulerImplementation:
    from dit360_core.plugins.builtin.solvers import dpmpp_2m

    return dpmpp_2m(settings)


def _twice_but_once(steps: int) -> int:
    return 2 * steps - 1


@hookimpl
def dit360_schedulers() -> Iterable[Scheduler]:
    spaced = frozenset({"timestep_schedule"})
    yield Scheduler(
        name="flow_match",
        api=1,
        priority=10,
        summary="Euler steps of the flow, as FLUX was trained",
        honours=spaced,
        load=FlowMatch,
    )
    yield Scheduler(
        name="heun",
        api=1,
        summary="second order, two evaluations a step",
        honours=spaced,
        evaluations=_twice_but_once,
        load=Heun,
    )
    yield Scheduler(
        name="unipc",
        api=1,
        summary="UniPC of second order, with a corrector: one evaluation a step",
        honours=spaced,
        load=_unipc,
    )
    yield Scheduler(
        name="dpmpp_2m",
        api=1,
        summary="DPM-Solver++(2M): second order from the step before, one evaluation a step",
        honours=spaced,
        load=_dpmpp_2m,
    )
