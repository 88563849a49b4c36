"""A plugin's solver goes a way that is known before it paints: wrong signs, wrong factors, noise of its own."""

import itertools
import random
from functools import partial

import attrs
import numpy as np
import pytest
import torch
from dit360_core.errors import Dit360Error
from dit360_core.options import TIMESTEP_SCHEDULES
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.solver_trial import rehearse
from dit360_core.plugins.builtin.scheduler import dit360_schedulers
from dit360_core.plugins.offers import SchedulerSettings
from dit360_core.plugins.registry import Registry
from invented_plugins import installed, offering, scheduler
from random_models import random_conditioning, random_flux


def unshifted(sigma, tokens):
    return sigma


def shifted(sigma, tokens):
    return 0.0 if sigma == 0.0 else 6.5 / (6.5 + 1.0 / sigma - 1.0)


class Euler:
    """factor: of the step. own: what is added to it."""

    def __init__(self, factor=1.0, own=lambda x, generator: 0.0):
        self.factor, self.own = factor, own

    def sigmas(self, steps, tokens):
        return [1 - i / steps for i in range(steps)] + [0.0]

    def step(self, velocity, sigma, sigma_next, x, generator):
        return x + self.factor * (sigma_next - sigma) * velocity + sigma_next * self.own(x, generator)


class Ancestral(Euler):
    """Noise of the seed in every step, whatever eta is: it goes to the picture that is expected, and back."""

    def step(self, velocity, sigma, sigma_next, x, generator):
        noise = torch.randn(x.shape, generator=generator)
        return (1 - sigma_next) * (x - sigma * velocity) + sigma_next * noise


class WrongOnlyLater(Euler):
    """A correction of the wrong sign, which the first step does not have."""

    before = None

    def step(self, velocity, sigma, sigma_next, x, generator):
        changed = 0.0 if self.before is None else self.before + velocity
        self.before = velocity
        return super().step(velocity - 0.5 * changed, sigma, sigma_next, x, generator)


WRONG = {
    "wrong sign": (lambda: Euler(-1.0), "goes -1 times the way"),
    "factor": (lambda: Euler(0.97), "0.0"),
    "large factor": (lambda: Euler(1000.0), "is allowed"),
    "correction": (WrongOnlyLater, "is allowed"),
    "torch's noise": (lambda: Euler(own=lambda x, generator: torch.randn_like(x)), "not the seed's"),
    "a little of torch's noise": (lambda: Euler(own=lambda x, generator: 1e-6 * torch.randn_like(x)), "not the seed's"),
    "Python's noise": (lambda: Euler(own=lambda x, generator: random.gauss(0, 1)), "not the seed's"),
    "numpy's noise": (lambda: Euler(own=lambda x, generator: float(np.random.default_rng().normal())), "two results"),
    "noise and sign": (lambda: Euler(-1.0, lambda x, g: torch.randn(x.shape, generator=g)), "is allowed"),
}


@pytest.mark.parametrize(("load", "told"), WRONG.values(), ids=WRONG)
def test_a_solver_that_goes_astray_is_told_by_how_much(load, told):
    assert told in rehearse(lambda eta: load(), 8, 32, "mine", 0.0)


@pytest.mark.parametrize("factor", [-1.0, 0.97])
def test_one_step_is_enough(factor):
    assert "is allowed" in rehearse(lambda eta: Euler(factor), 1, 32, "mine", 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("offer", list(dit360_schedulers()), ids=lambda offer: offer.name)
def test_the_cores_own_solvers_pass(offer, eta):
    schedules = TIMESTEP_SCHEDULES if "timestep_schedule" in offer.honours else ("linear",)
    for schedule, shift, steps in itertools.product(schedules, (unshifted, shifted), (1, 2, 5, 28)):
        settings = SchedulerSettings(shift=shift, timestep_schedule=schedule)
        load = partial(loaded, offer, settings)
        assert rehearse(load, steps, 8320, offer.name, eta) == "", (schedule, steps)


def loaded(offer, settings, eta):
    return offer.load(attrs.evolve(settings, eta=eta))


def test_one_that_adds_the_seeds_noise_whatever_eta_is_passes():
    assert [rehearse(lambda eta: Ancestral(), steps, 32, "mine", 0.0) for steps in (1, 4, 28)] == [""] * 3


def test_what_raises_or_is_not_finite_is_left_to_the_picture_and_random_numbers_are_as_before():
    def raises(x, generator):
        torch.rand(1)
        random.random()
        raise BaseException("as pyo3 does")

    before, own = torch.get_rng_state(), random.getstate()
    assert rehearse(lambda eta: Euler(own=raises), 4, 32, "mine", 0.0) == ""
    assert rehearse(lambda eta: Euler(float("nan")), 4, 32, "mine", 0.0) == ""
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == own


def test_in_a_pipeline_it_is_one_sentence_and_the_model_is_not_asked():
    plugin = offering(
        scheduler("backwards", lambda settings: Euler(-1.0)), scheduler("right", lambda settings: Euler())
    )
    pipeline = Pipeline.from_diffusers(random_flux(), registry=Registry(entry_points=installed("kit", plugin)))
    asked = []
    pipeline.engine.denoiser.register_forward_pre_hook(lambda *_: asked.append(1))
    size = {"width": 128, "height": 64, "steps": 2, "seed": 1}
    with pytest.raises(Dit360Error, match=r"The scheduler backwards \(kit 1.0\) is wrong: .*; choose another, or tell"):
        pipeline.sample(random_conditioning(), scheduler_type="backwards", **size)
    assert asked == []
    pipeline.sample(random_conditioning(), scheduler_type="right", **size)
    assert len(asked) == 2
