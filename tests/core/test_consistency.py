"""Guidance towards what a sphere asks of a panorama: what it changes and costs; and that weight 0 is off."""

import logging

import pytest
import torch
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.sphere.poles import on_sphere
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_conditioning, random_flux

SIZE = {"width": 128, "height": 64, "steps": 3, "seed": 1}


def noise(height=32, width=64, dtype=torch.float32, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.integers(0, 63))
def test_smoothing_knows_no_longitude(columns):
    latents = noise(dtype=torch.float64)
    assert torch.allclose(on_sphere(latents.roll(columns, -1)), on_sphere(latents).roll(columns, -1), atol=1e-12)


def test_the_equator_stays_and_the_poles_become_smooth():
    latents = noise(dtype=torch.float64)
    smooth = on_sphere(latents)
    away = (smooth - latents).square().mean((0, 1, 3)).sqrt()
    assert away[15] < 0.01
    assert away[0] > 0.8
    steps = smooth.diff(dim=-1).square().mean((0, 1, 3)).sqrt()
    assert steps[0] < 0.2 * steps[15]
    assert torch.allclose(smooth.mean(-1), latents.mean(-1), atol=1e-12), "what a row is on average stays"


def test_a_picture_that_changes_slowly_is_left_alone():
    longitude = torch.linspace(0, 2 * torch.pi, 65, dtype=torch.float64)[:-1]
    latents = (torch.cos(longitude) * torch.linspace(0, 1, 32, dtype=torch.float64)[:, None])[None, None]
    assert torch.allclose(on_sphere(latents)[..., 1:-1, :], latents[..., 1:-1, :], atol=1e-12)


@pytest.mark.parametrize("periods", [0, 1, 2, 5])
def test_what_is_smooth_on_the_sphere_is_left_alone_to_the_poles(periods):
    longitude = torch.arange(256, dtype=torch.float64) / 256 * 2 * torch.pi
    radius = torch.sin((torch.arange(128, dtype=torch.float64) + 0.5) / 128 * torch.pi)[:, None]
    field = (radius**periods * torch.cos(periods * longitude))[None, None]
    assert torch.allclose(on_sphere(field), field, atol=1e-9)


def test_at_a_pole_there_is_one_value_whatever_is_said_all_around():
    longitude = torch.arange(256, dtype=torch.float64) / 256 * 2 * torch.pi
    sectors = torch.sign(torch.sin(3 * longitude)).expand(1, 1, 128, 256)
    smooth = on_sphere(sectors)
    around = smooth.std(-1)[0, 0]
    assert around[0] < 0.05 * around[64]
    assert around[-1] < 0.05 * around[64]
    assert torch.all(around[:20].diff() > -1e-9)


def test_an_odd_width_keeps_its_width():
    assert on_sphere(noise(4, 7)).shape == (1, 3, 4, 7)


@pytest.mark.parametrize("name", ["yaw_consistency", "cube_consistency"])
def test_weight_0_is_off_bit_for_bit_and_any_other_is_not(name):
    pipeline = Pipeline.from_diffusers(random_flux())
    off, zero, some = (
        pipeline.sample(random_conditioning(), **SIZE, **options) for options in ({}, {name: 0.0}, {name: 0.5})
    )
    assert torch.equal(off.tensor, zero.tensor)
    assert not torch.allclose(off.tensor, some.tensor, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({}, 3),
        ({"cube_consistency": 1.0}, 3),
        ({"yaw_consistency": 0.1}, 6),
        ({"yaw_consistency": 1.0, "true_guidance": 2.0}, 12),
        ({"yaw_consistency": 1.0, "scheduler_type": "heun"}, 10),
    ],
)
def test_what_it_costs_is_told_before_and_counted(options, evaluations, caplog):
    pipeline = Pipeline.from_diffusers(random_flux())
    with caplog.at_level(logging.INFO, logger="dit360"):
        sampled = pipeline.sample(random_conditioning(negative=True), **SIZE, **options)
    assert f"3 steps, {evaluations} evaluations of the model" in caplog.text
    assert sampled.settings["used"]["evaluations"] == evaluations


def test_with_all_of_the_weight_the_view_from_behind_counts_as_much():
    """A panorama turned half round is painted as the same one, turned."""
    pipeline = Pipeline.from_diffusers(random_flux(torch.float64))
    start = noise(8, 16, torch.float64).repeat(1, 6, 1, 1)[:, :16]
    options = {**SIZE, "circular_padding": 0, "latents": start}

    def unlike(weight):
        plain = pipeline.sample(random_conditioning(torch.float64), yaw_consistency=weight, **options).tensor
        turned = {**options, "latents": start.roll(8, -1)}
        other = pipeline.sample(random_conditioning(torch.float64), yaw_consistency=weight, **turned).tensor
        return float((other.roll(-8, -1) - plain).abs().max())

    assert unlike(1.0) <= 1e-10
    assert unlike(0.0) > 1e-4


def test_with_all_of_the_weight_the_picture_is_on_the_sphere():
    sampled = Pipeline.from_diffusers(random_flux(torch.float64)).sample(
        random_conditioning(torch.float64), cube_consistency=1.0, **SIZE
    )
    rows = (on_sphere(sampled.tensor) - sampled.tensor).square().mean((0, 1, 3)).sqrt()
    plain = Pipeline.from_diffusers(random_flux(torch.float64)).sample(random_conditioning(torch.float64), **SIZE)
    before = (on_sphere(plain.tensor) - plain.tensor).square().mean((0, 1, 3)).sqrt()
    assert rows[0] < 0.3 * before[0]


@pytest.mark.parametrize("name", ["yaw_consistency", "cube_consistency", "denoise"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_weights_are_shares(name, value):
    with pytest.raises(InputError, match=name):
        SampleOptions(prompt="a sea", **{name: value})
