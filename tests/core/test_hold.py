"""A part of the latents is held where it is: exactly, with every solver, and whatever else is asked of the sampling."""

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.pipeline.holding import Held, Hold
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Latents
from dit360_core.plugins.registry import default_registry
from random_models import random_conditioning, random_flux

WIDTH, HEIGHT = 128, 64
SIZE = {"seed": 1, "steps": 4}
SOLVERS = [entry.name for entry in default_registry().entries("scheduler")]
PICTURE = Latents(tensor=torch.randn(1, 16, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(7)))
KEEP = torch.zeros(1, 1, HEIGHT // 8, WIDTH // 8)
"""Its edges lie inside of tokens, which are two latents wide."""
KEEP[..., 1:6, 3:8] = 1.0
KEEP[..., 1:6, 8] = 0.5
KEPT = (KEEP == 1)[0, 0]


def hold(columns=0, keep=KEEP):
    return Hold(latents=Latents(tensor=PICTURE.tensor.roll(columns, -1)), keep=keep.roll(columns, -1))


def off(sampled, columns=0):
    """How far what was kept is from the picture, the largest difference of all."""
    return float((sampled.tensor - PICTURE.tensor.roll(columns, -1))[..., KEPT.roll(columns, -1)].abs().max())


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_diffusers(random_flux())


@pytest.fixture(scope="module")
def told():
    return random_conditioning()


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_kept_stays_with_every_solver_and_any_steps(pipe, told, solver, steps):
    made = pipe.sample(told, hold=hold(), scheduler_type=solver, steps=steps, seed=1)
    assert off(made) <= 1e-6
    if steps == 7:
        plain = pipe.sample(told, width=WIDTH, height=HEIGHT, scheduler_type=solver, steps=steps, seed=1)
        assert (made.tensor - plain.tensor)[..., ~KEPT].abs().max() > 1e-3, "the rest is made with a view to it"


@pytest.mark.parametrize("steps", [2, 7])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_velocity_alone_leads_there(pipe, told, solver, steps, monkeypatch):
    """Up to the solver's own arithmetic, so that the part which is made sees the kept one at the right noise level."""
    monkeypatch.setattr(Hold, "settled", lambda self, made: made)
    assert off(pipe.sample(told, hold=hold(), scheduler_type=solver, steps=steps, seed=1)) <= 1e-4


ASKED = {
    "fresh noise": {"scheduler_type": "ddim", "scheduler_eta": 1.0},
    "a picture to begin with": {"denoise": 0.5},
    "a little of it": {"denoise": 0.25, "steps": 8, "scheduler_type": "heun"},
    "rotation": {"latent_rotation": True},
    "no padding": {"circular_padding": 0},
    "wide padding": {"circular_padding": 3},
    "bias": {"circular_mode": "bias"},
    "yaw": {"yaw_consistency": 1.0},
    "cube": {"cube_consistency": 0.5},
    "all": {"latent_rotation": True, "yaw_consistency": 0.5, "cube_consistency": 0.5, "denoise": 0.8, "steps": 5},
    "other levels": {"timestep_schedule": "cosine", "scheduler_type": "unipc", "steps": 9},
    "position interpolation": {"position_interpolation": True},
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_kept_stays_whatever_is_asked(pipe, told, name):
    assert off(pipe.sample(told, hold=hold(), **{**SIZE, **ASKED[name]})) <= 1e-6


def test_what_is_kept_stays_with_true_guidance(pipe):
    made = pipe.sample(random_conditioning(negative=True), hold=hold(), true_guidance=4.0, **SIZE)
    assert off(made) <= 1e-6
    assert made.settings["used"]["evaluations"] == 8


def test_nothing_kept_is_a_plain_generation_bit_for_bit(pipe, told):
    nothing = hold(keep=torch.zeros_like(KEEP))
    for options in ({}, {"scheduler_type": "dpmpp_2m", "latent_rotation": True}):
        plain = pipe.sample(told, width=WIDTH, height=HEIGHT, **SIZE, **options)
        assert torch.equal(pipe.sample(told, hold=nothing, **SIZE, **options).tensor, plain.tensor)


def test_all_kept_is_the_picture(pipe, told):
    made = pipe.sample(told, hold=hold(keep=torch.ones_like(KEEP)), **SIZE)
    assert (made.tensor - PICTURE.tensor).abs().max() <= 1e-6


def test_no_evaluation_is_added(pipe, told):
    plain = pipe.sample(told, width=WIDTH, height=HEIGHT, scheduler_type="heun", **SIZE)
    held = pipe.sample(told, hold=hold(), scheduler_type="heun", **SIZE)
    assert held.settings["used"]["evaluations"] == plain.settings["used"]["evaluations"] == 7


@pytest.mark.parametrize("columns", [2, 5, -6])
def test_a_rolled_picture_keeps_the_rolled_part(pipe, told, columns):
    """Over the meridian, too: the part of −6 columns lies on both sides of it."""
    noise = pipe.sample(told, width=WIDTH, height=HEIGHT, steps=1, seed=5).tensor
    still = pipe.sample(told, hold=hold(), latents=noise, **SIZE)
    rolled = pipe.sample(told, hold=hold(columns), latents=noise.roll(columns, -1), **SIZE)
    assert off(rolled, columns) <= 1e-6
    assert torch.equal(hold(columns).keep, hold().keep.roll(columns, -1))
    if columns % 2 == 0:  # tokens are two latents wide
        apart = (rolled.tensor.roll(-columns, -1) - still.tensor)[..., KEPT].abs().max()
        assert apart <= 1e-6


def test_a_soft_edge_is_held_for_its_share_of_the_way():
    """Strength 0.5: held while the noise is more than half of what it was at the start, let go below."""
    keep = torch.tensor([[[0.0], [0.5], [1.0]]])
    picture = torch.zeros(1, 3, 2)
    for start in (1.0, 0.6):
        link = Held(lambda x, sigma: torch.full_like(x, 9.0), picture, keep, start)
        x = torch.ones(1, 3, 2)
        early, late = link(x, 0.75 * start), link(x, 0.25 * start)
        assert early[0, :, 0].tolist() == pytest.approx([9.0, 1 / (0.75 * start), 1 / (0.75 * start)])
        assert late[0, :, 0].tolist() == pytest.approx([9.0, 9.0, 1 / (0.25 * start)])
        assert torch.equal(link(x, 0.0), torch.full_like(x, 9.0)), "a solver that looks at the end divides by nothing"


def test_a_look_at_the_picture_on_the_way_shows_what_is_kept(pipe, told):
    seen = []
    pipe.sample(told, hold=hold(), tap=lambda done, steps, latents: seen.append(latents), **SIZE)
    assert len(seen) == SIZE["steps"]
    assert max(map(off, seen)) <= 1e-5


def test_metadata_tell_what_was_kept(pipe, told):
    used = pipe.sample(told, hold=attrs.evolve(hold(), told={"region": "0,0,60"}), **SIZE).settings["used"]
    assert used["hold"]["region"] == "0,0,60"


WRONG = {
    "another size": (lambda: Hold(latents=PICTURE, keep=torch.ones(1, 1, 8, 8)), r"shape \(1, 1, 8, 8\), but these"),
    "too much": (lambda: Hold(latents=PICTURE, keep=KEEP * 2), "a number from 0 to 1"),
    "no number": (lambda: Hold(latents=PICTURE, keep=KEEP * float("nan")), "a number from 0 to 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_hold_that_is_none_is_one_sentence(name):
    make, sentence = WRONG[name]
    with pytest.raises(dit360.InputError, match=sentence):
        make()


def test_a_hold_of_another_size_than_asked_is_refused(pipe, told):
    with pytest.raises(dit360.InputError, match="256"):
        pipe.sample(told, hold=hold(), width=256, **SIZE)
