"""A plugin's solver on a small tensor before the first picture: wrong signs and factors, and noise of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch

from dit360_core.pipeline.sampling import levels, one_step
from dit360_core.pipeline.stages import ends_the_program

ALLOWED = 1e-3
"""Of the way from noise to picture. Every solver goes a straight way exactly, up to rounding."""
ALLOWED_WITH_NOISE = 0.05
_SHAPE = (1, 32, 4)


def rehearse(load: Callable[[float], Any], steps: int, tokens: int, name: str, eta: float) -> str:
    """What is wrong with a solver, as half a sentence; empty if nothing is.

    load: gives a new one, for an ``eta``. What it raises, or numbers that are not finite, are left to the picture,
    which tells them where they arise. torch's and Python's own random numbers are as before.
    """
    before = random.getstate()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            return _wrong(load, steps, tokens, name, eta)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, whatever it is
            if ends_the_program(error):
                raise
            return ""
        finally:
            random.setstate(before)


def _wrong(load: Callable[[float], Any], steps: int, tokens: int, name: str, eta: float) -> str:
    generator = torch.Generator().manual_seed(0)
    noise, picture = (torch.randn(_SHAPE, generator=generator) for _ in range(2))
    sigmas = levels(load(eta), steps, tokens, name)
    start = (1 - sigmas[0]) * picture + sigmas[0] * noise
    velocity = noise - picture

    def straight(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return velocity.clone()

    def towards(x: torch.Tensor, sigma: float) -> torch.Tensor:
        # All the way the same, up to rounding, which a small sigma would make large.
        return (x - picture) / sigma if sigma > 1e-4 else velocity.clone()

    def run(model: Any, eta: float, seed: int) -> torch.Tensor:
        """The state after each step."""
        solver, own = load(eta), torch.Generator().manual_seed(seed)
        solver.sigmas(steps, tokens)
        states = [start.clone()]
        for sigma, after in itertools.pairwise(sigmas):
            states.append(one_step(solver, model, states[-1], sigma, after, own))
        return torch.stack(states)

    torch_before, python_before = torch.get_rng_state(), random.getstate()
    first = run(towards, eta, 1)
    if not bool(torch.isfinite(first).all()):
        return ""
    if not torch.equal(torch.get_rng_state(), torch_before) or random.getstate() != python_before:
        return "it draws random numbers that are not the seed's; noise is to come from the generator that it is given"
    if not torch.equal(first, run(towards, eta, 1)):
        return "it gives two results for one seed; noise is to come from the generator that it is given"
    noisy = not torch.equal(first, run(towards, eta, 2))
    if eta or not noisy:
        # Without noise all of the way is known; one that adds some whatever the eta is judged by where it arrives.
        way = run(straight, 0.0, 1)
        if not noisy or torch.equal(way, run(straight, 0.0, 2)):
            error = float((way[-1] - (start - sigmas[0] * velocity)).abs().max()) / float(velocity.abs().max())
            if not error <= ALLOWED:
                return _told("a constant velocity", error, ALLOWED, way[-1], start, velocity)
    error = float((first[-1] - picture).abs().max()) / float((start - picture).abs().max())
    allowed = ALLOWED_WITH_NOISE if noisy else ALLOWED
    told = _told("a velocity towards one picture", error, allowed, first[-1], start, velocity)
    return "" if error <= allowed else told


def _told(of: str, error: float, allowed: float, end: torch.Tensor, start: torch.Tensor, way: torch.Tensor) -> str:
    went = float(((start - end) * way).sum() / way.square().sum())
    return (
        f"{of} takes it {error:.3g} of the way from noise to picture off, where {allowed:.2g} is allowed "
        f"(it goes {went:.3g} times the way)"
    )
