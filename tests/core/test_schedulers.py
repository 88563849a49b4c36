"""Solvers against flows that are known: order of convergence, noise levels, beginning in the middle."""

import functools
import itertools
import math

import attrs
import pytest
import torch
from command_line import dit360
from dit360_core.errors import Dit360Error, InputError
from dit360_core.models.shift import FlowShift
from dit360_core.panorama.metrics import ws_psnr
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin import solvers
from dit360_core.plugins.builtin.scheduler import dit360_schedulers
from dit360_core.plugins.offers import SchedulerSettings
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.grid import Grid
from dit360_core.testing import SchedulerConformance
from dit360_core.testing.scheduling import gaussian_flow, integrate
from invented_plugins import installed, offering
from random_models import random_conditioning, random_flux

OFFERS = {offer.name: offer for offer in dit360_schedulers()}
SIZE = {"width": 128, "height": 64, "steps": 4, "seed": 1}


class Builtin(SchedulerConformance):
    module = "dit360_core.plugins.builtin.scheduler"
    name = ""

    def offer(self):
        return OFFERS[self.name]


class TestFlowMatch(Builtin):
    name = "flow_match"


class TestHeun(Builtin):
    name = "heun"


class TestUnipc(Builtin):
    name = "unipc"


class TestDpmpp2m(Builtin):
    name = "dpmpp_2m"


# ------------------------------------------------------------------------------------------------ order of convergence

CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
WIDTH = 0.4


def mixture(x, sigma):
    """E[ε − x0 | x] for x0 of three normal distributions around CENTRES."""
    signal = 1.0 - sigma
    variance = signal**2 * WIDTH**2 + sigma**2
    away = x[..., None, :] - signal * CENTRES
    weights = torch.softmax(-away.square().sum(-1) / (2 * variance), dim=-1)[..., None]
    noise = (weights * sigma * away / variance).sum(-2)
    data = (weights * (CENTRES + signal * WIDTH**2 * away / variance)).sum(-2)
    return noise - data


def error(name, evaluations):
    """Root mean square over 500 samples against Heun's method with 2000 steps."""
    steps = next(n for n in range(1, 1000) if OFFERS[name].evaluations(n) >= evaluations)
    return float((end(name, steps) - end("heun", 2000)).square().mean().sqrt())


@functools.cache
def end(name, steps):
    start = torch.randn(1, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheduler = OFFERS[name].load(SchedulerSettings(shift=lambda sigma, tokens: sigma))
    return integrate(scheduler, scheduler.sigmas(steps, 1), start, mixture)[0]


@pytest.mark.parametrize(("name", "least"), [("flow_match", 0.8), ("heun", 1.6), ("unipc", 1.6), ("dpmpp_2m", 1.5)])
def test_the_order_of_convergence(name, least):
    """How the error falls when steps are halved, between 32 and 256 evaluations."""
    few, many = error(name, 32), error(name, 256)
    order = math.log(few / many) / math.log(8)
    assert least <= order <= 3.5, (few, many)


def test_a_solver_of_second_order_needs_a_fraction_of_eulers_evaluations():
    euler = error("flow_match", 50)
    assert min(error(name, 25) for name in ("heun", "unipc", "dpmpp_2m")) < euler


# -------------------------------------------------------------------------------------------------- in the pipeline


@pytest.mark.parametrize("name", list(OFFERS))
def test_pads_equal_their_sources_whatever_solves(name):
    pipeline, seen = Pipeline.from_diffusers(random_flux(torch.float64)), []
    grid = Grid.of_picture(128, 64, 3)
    pipeline.engine.denoiser.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["hidden_states"]), with_kwargs=True
    )
    sampled = pipeline.sample(random_conditioning(torch.float64), scheduler_type=name, circular_padding=3, **SIZE)
    assert len(seen) == OFFERS[name].evaluations(SIZE["steps"]) == sampled.settings["used"]["evaluations"]
    for tokens in seen:
        assert torch.equal(tokens[:, grid.crop_index()][:, grid.pad_index()], tokens)


@pytest.mark.parametrize("name", list(OFFERS))
def test_true_guidance_counts_twice(name):
    sampled = Pipeline.from_diffusers(random_flux()).sample(
        random_conditioning(negative=True), scheduler_type=name, true_guidance=3.0, **SIZE
    )
    assert sampled.settings["used"]["evaluations"] == 2 * OFFERS[name].evaluations(SIZE["steps"])


# ------------------------------------------------------------------------------------------------------- denoise


@pytest.fixture(scope="module")
def painted(tiny):
    latents = tiny.sample(tiny.encode("a castle above a meadow at sunset"), width=128, steps=8, seed=5)
    return latents, tiny.encode("a calm sea under a starry night sky")


@pytest.mark.parametrize("name", list(OFFERS))
def test_the_less_is_made_anew_the_more_stays(tiny, painted, name):
    latents, prompt = painted
    away = []
    for denoise in (0.0, 0.2, 0.5, 0.9):
        other = tiny.sample(prompt, image=latents, denoise=denoise, steps=6, seed=9, scheduler_type=name)
        assert (other.width, other.height) == (128, 64)
        away.append(float((other.tensor - latents.tensor).square().mean()))
    assert away[0] == 0.0
    assert away == sorted(away)
    assert away[-1] > 4 * away[1]


@pytest.mark.parametrize(("steps", "denoise"), [(1, 0.7), (2, 0.9), (4, 0.89), (6, 0.99)])
def test_below_1_something_of_the_picture_always_stays(steps, denoise):
    pipeline = Pipeline.from_diffusers(random_flux())
    one, other = (pipeline.sample(random_conditioning(), **{**SIZE, "seed": seed}) for seed in (1, 2))
    options = {"denoise": denoise, "steps": steps, "seed": 3}
    first, second = (pipeline.sample(random_conditioning(), image=image, **options).tensor for image in (one, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("image", ["a.png", torch.zeros(1, 16, 8, 16), 3])
def test_what_is_no_picture_is_told(image):
    with pytest.raises(InputError, match="but must be latents"):
        Pipeline.from_diffusers(random_flux()).sample(random_conditioning(), image=image, denoise=0.5, **SIZE)
    with pytest.raises(InputError, match="but must be a Panorama"):
        Pipeline.from_diffusers(random_flux()).generate("a sea", image=image, denoise=0.5, **SIZE)


@pytest.mark.parametrize("second", [1 - 2**-52, 1 - 2**-53, 1.0, 1 - 1e-9, 0.5])
def test_every_level_that_a_logarithm_is_taken_of_leaves_some_signal(second):
    levels = solvers.with_signal([1.0, second, 0.25, 0.0])
    assert all(1 > level > after for level, after in itertools.pairwise(levels))
    assert levels == pytest.approx([1.0, second, 0.25, 0.0], abs=2e-6)
    assert levels[1:] == [second, 0.25, 0.0] or second > 1 - 1e-15


@pytest.mark.parametrize("name", list(OFFERS))
@pytest.mark.parametrize("tokens", [8320, 131_584])
@pytest.mark.parametrize("schedule", ["linear", "quadratic", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 16, 300])
def test_levels_that_crowd_near_1_are_no_trouble(name, tokens, schedule, steps):
    """FLUX's time shift at 2048×1024 and at 8192×4096, where exp(mu) is 5·10⁹."""
    settings = SchedulerSettings(shift=FlowShift(dynamic=True), timestep_schedule=schedule)
    scheduler = OFFERS[name].load(settings)
    start = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0))
    end, *_ = integrate(scheduler, scheduler.sigmas(steps, tokens), start, gaussian_flow)
    assert torch.isfinite(end).all()
    assert end.abs().max() < 20


def test_a_plugin_that_says_nothing_sensible_of_its_cost_is_named():
    def many(steps):
        raise RuntimeError("boom")

    offer = attrs.evolve(OFFERS["heun"], name="odd", evaluations=many)
    registry = Registry(entry_points=installed("kit", offering(offer)))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry)
    with pytest.raises(Dit360Error, match=r"odd \(kit 1.0\) cannot say how often it asks"):
        pipeline.sample(random_conditioning(), scheduler_type="odd", **SIZE)


def test_a_plugin_that_asks_more_often_than_it_says_is_told(caplog):
    offer = attrs.evolve(OFFERS["heun"], name="odd", evaluations=lambda steps: steps)
    registry = Registry(entry_points=installed("kit", offering(offer)))
    pipeline = Pipeline.from_diffusers(random_flux(), registry=registry)
    pipeline.sample(random_conditioning(), scheduler_type="odd", **SIZE)
    assert "odd (kit 1.0) asked the model 7 times and had told 4" in caplog.text


def test_it_begins_at_the_noise_level_of_its_share_of_a_whole_run():
    pipeline, seen = Pipeline.from_diffusers(random_flux(torch.float64)), []
    pipeline.engine.denoiser.register_forward_pre_hook(
        lambda module, args, given: seen.append(float(given["timestep"])), with_kwargs=True
    )
    image = pipeline.sample(random_conditioning(torch.float64), **{**SIZE, "steps": 10})
    whole, seen[:] = list(seen), []
    pipeline.sample(random_conditioning(torch.float64), image=image, denoise=0.4, **SIZE)
    assert seen == whole[-4:]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"denoise": 0.5}, "denoise=0.5 keeps a part of a picture, and none is given"),
        ({"denoise": 1e-5, "image": True}, "denoise is 1e-05, but must be 0, or 0.01"),
        ({"denoise": 1.5, "image": True}, "denoise is 1.5"),
        ({"denoise": 1.0, "image": True}, "denoise=1 keeps nothing of the image"),
        (
            {"denoise": 0.5, "image": True, "width": 256, "height": 128},
            "The image has 128×64 pixels, and 256×128 were asked for",
        ),
    ],
)
def test_what_is_wrong_with_a_beginning_is_told(options, told):
    pipeline = Pipeline.from_diffusers(random_flux())
    image = pipeline.sample(random_conditioning(), **SIZE)
    if options.get("image"):
        options = {**options, "image": image}
    with pytest.raises(InputError, match=told):
        pipeline.sample(random_conditioning(), steps=2, **options)


def test_the_command_line_begins_with_a_picture(tmp_path):
    first = ["generate", "a castle above a meadow at sunset", "--width", 128, "--steps", 2, "--seed", 3, "-o", "a.png"]
    again = ["generate", "a castle at night", "--image", "a.png", "--denoise", 0.3, "--steps", 2, "-o", "b.png"]
    told = dit360(first, [*again, "--verbose"], ["inspect", "b.png", "--json"], cwd=tmp_path)
    assert [one.code for one in told] == [0, 0, 0], told
    assert "2 steps, 2 evaluations of the model" in told[1].err
    settings = told[2].json["settings"]
    assert settings["used"]["denoise"] == 0.3
    assert (settings["used"]["width"], settings["used"]["height"]) == (128, 64)


def test_a_picture_is_taken_as_it_is_with_its_size(tiny):
    picture = tiny.generate("a castle above a meadow at sunset", width=256, steps=6, seed=5)
    again = tiny.generate("a castle above a meadow at sunset", image=picture, denoise=0.1, steps=2, seed=1)
    assert again.size == picture.size
    assert ws_psnr(again.image, picture.image) > 18
