"""DDIM in the flow convention: without fresh noise it is Euler, with it marginals stay what they are."""

import pytest
import torch
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.scheduler import FlowMatch
from dit360_core.plugins.offers import SchedulerSettings
from dit360_core.plugins.registry import default_registry
from dit360_core.sphere.grid import Grid
from dit360_core.testing import SchedulerConformance
from dit360_core.testing.scheduling import MEAN, SPREAD, gaussian_flow, integrate, noise
from dit360_sched_ddim import dit360_schedulers
from dit360_sched_ddim.ddim import Ddim, fresh_share
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_conditioning, random_flux

(OFFER,) = dit360_schedulers()
SIZE = {"width": 128, "height": 64, "steps": 4, "seed": 1}


class TestConformance(SchedulerConformance):
    module = "dit360_sched_ddim"

    def offer(self):
        return OFFER


def settings(eta, schedule="linear"):
    return SchedulerSettings(shift=lambda sigma, tokens: sigma, timestep_schedule=schedule, eta=eta)


def test_the_environment_offers_it():
    (entry,) = default_registry().find("scheduler", "ddim")
    assert entry.address == "dit360-sched-ddim:ddim"


levels = st.floats(0.001, 1.0)


@given(levels, st.floats(0.0, 0.999), st.integers(0, 2**31))
def test_without_fresh_noise_it_is_euler(sigma, share, seed):
    sigma_next = sigma * share
    generator = torch.Generator().manual_seed(seed)
    x, velocity = (torch.randn(1, 10, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    ours, euler = (cls(settings(0.0)).step(velocity, sigma, sigma_next, x, generator) for cls in (Ddim, FlowMatch))
    assert (ours - euler).abs().max() <= 1e-12


@given(levels, st.floats(0.0, 0.999), st.floats(0.0, 1.0))
def test_there_is_never_more_fresh_noise_than_its_share(sigma, share, eta):
    sigma_next = sigma * share
    assert 0.0 <= fresh_share(sigma, sigma_next, eta) <= eta * sigma_next


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_mean_and_covariance_are_those_of_the_data(eta):
    """Over 1000 steps, where what is left of the steps' own error is below the statistical one of 20 000 samples."""
    ddim = Ddim(settings(eta))
    end, _, _ = integrate(ddim, ddim.sigmas(1000, 1), noise(20_000), gaussian_flow)
    covariance = torch.cov(end[0].T)
    assert (end[0].mean(0) - MEAN).abs().max() <= 4 * float(SPREAD.max()) / 20_000**0.5
    assert (covariance.diag() / SPREAD**2 - 1).abs().max() <= 0.04
    assert abs(covariance[0, 1]) <= 4 * float(SPREAD.prod()) / 20_000**0.5


@given(st.floats(0.01, 0.99), st.floats(0.05, 0.95))
def test_with_eta_1_the_fresh_noise_is_what_a_markov_chain_leaves_open(sigma, share):
    """The variance of x' given x and x0: precisions add up, of the noise at σ' and of the way from σ' to σ."""
    after = sigma * share
    kept = (1 - sigma) / (1 - after)
    way = sigma**2 - kept**2 * after**2
    open_ = 1 / (1 / after**2 + kept**2 / way)
    assert fresh_share(sigma, after, 1.0) ** 2 == pytest.approx(open_, rel=1e-9)


def test_the_ends_of_the_formula():
    assert fresh_share(1.0, 0.7, 0.5) == pytest.approx(0.35)
    assert fresh_share(0.3, 0.0, 1.0) == 0.0


def test_noise_is_drawn_for_real_columns_and_pads_stay_equal_to_their_sources():
    pipeline, seen = Pipeline.from_diffusers(random_flux(torch.float64)), []
    grid = Grid.of_picture(128, 64, 2)
    pipeline.engine.denoiser.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["hidden_states"]), with_kwargs=True
    )
    options = {"circular_padding": 2, "scheduler_type": "ddim", "scheduler_eta": 0.7}
    noisy = pipeline.sample(random_conditioning(torch.float64), **options, **SIZE)
    for tokens in seen:
        assert torch.equal(tokens[:, grid.crop_index()][:, grid.pad_index()], tokens)
    plain = pipeline.sample(random_conditioning(torch.float64), scheduler_type="ddim", circular_padding=2, **SIZE)
    assert not torch.allclose(noisy.tensor, plain.tensor, atol=1e-3)


def test_a_seed_means_one_picture():
    pipeline = Pipeline.from_diffusers(random_flux())
    options = {**SIZE, "scheduler_type": "ddim", "scheduler_eta": 1.0}
    first, again = (pipeline.sample(random_conditioning(), **options).tensor for _ in range(2))
    assert torch.equal(first, again)
    other = pipeline.sample(random_conditioning(), **{**options, "seed": 2}).tensor
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_eta_that_is_none_is_told_before_anything(eta):
    with pytest.raises(InputError, match="scheduler_eta"):
        SampleOptions(prompt="a sea", scheduler_type="ddim", scheduler_eta=eta)


def test_eta_given_to_a_scheduler_without_noise_is_told():
    pipeline = Pipeline.from_diffusers(random_flux())
    for name in ("flow_match", "heun", "unipc", "dpmpp_2m"):
        with pytest.raises(InputError, match=r"scheduler_eta=0\.5 has no effect"):
            pipeline.sample(random_conditioning(), scheduler_type=name, scheduler_eta=0.5, **SIZE)
