"""Distances on the sphere: against all pairs of directions, rolled, at the poles, and of large panoramas."""

import math

import pytest
import torch
from dit360_core.sphere.distance import FINEST, distance
from dit360_core.sphere.views import directions
from hypothesis import given, settings
from hypothesis import strategies as st

HEIGHT = 24


def slowly(area, most):
    """All pairs of pixels."""
    seen = directions(area.shape[0]).reshape(-1, 3)
    there = seen[area.reshape(-1)]
    if not len(there):
        return torch.full(area.shape, math.inf)
    apart = torch.rad2deg(torch.acos((seen @ there.T).max(1).values.clamp(-1, 1))).view(area.shape).float()
    return torch.where(apart <= most, apart, torch.full_like(apart, math.inf))


def drawn(seed, share):
    return torch.rand(HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(seed)) < share


@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.001, 0.01, 0.2, 1.0]), st.floats(1, 180))
@settings(max_examples=60, deadline=None)
def test_it_is_the_nearest_of_all_pixels(seed, share, most):
    area = drawn(seed, share)
    found, expected = distance(area, most), slowly(area, most)
    # At a distance of exactly ``most`` rounding decides.
    sure = (expected.nan_to_num(posinf=1e3) - most).abs() > 1e-3
    assert torch.equal(found.isinf()[sure], expected.isinf()[sure])
    both = ~found.isinf() & ~expected.isinf()
    assert not both.any() or (found - expected)[both].abs().max() <= 2e-3


@given(st.integers(0, 2**20), st.integers(-100, 100))
@settings(max_examples=30, deadline=None)
def test_a_rolled_area_has_the_same_distances_bit_for_bit(seed, columns):
    area = drawn(seed, 0.01)
    assert torch.equal(distance(area.roll(columns, 1), 180), distance(area, 180).roll(columns, 1))


def test_a_large_one_rolls_by_latent_columns_bit_for_bit():
    area = torch.zeros(2 * FINEST, 4 * FINEST, dtype=torch.bool)
    area[700:760, 1500:1600] = True
    assert torch.equal(distance(area.roll(8 * 55, 1), 20), distance(area, 20).roll(8 * 55, 1))


def test_beyond_a_pole_lies_the_other_side():
    """From 5 degrees before the pole to 5 degrees behind it: 10 degrees, and not half the way round."""
    height = 180
    area = torch.zeros(height, 2 * height, dtype=torch.bool)
    area[4, 0] = True  # 85.5 degrees up
    assert distance(area, 30)[4, height] == pytest.approx(9.0, abs=0.01)
    assert distance(area.flip(0), 30)[-5, height] == pytest.approx(9.0, abs=0.01)


def test_a_large_one_is_right_to_a_pixel():
    """A cap around a direction, whose distances are known: 1024 rows, found at half of them."""
    height = 2 * FINEST
    seen = directions(height)
    middle = torch.nn.functional.normalize(torch.tensor([0.3, 0.8, -0.4], dtype=torch.float64), dim=0)
    angle = torch.rad2deg(torch.acos((seen @ middle).clamp(-1, 1)))
    found = distance(angle <= 10, 15)
    ring = (angle > 10) & (angle < 24)
    assert (found - (angle - 10)).abs()[ring].max() <= 180 / height * 1.5
    assert found[angle > 27].isinf().all()
    assert (found[angle <= 10] == 0).all()


def test_nothing_is_infinitely_far_and_all_is_near():
    assert distance(torch.zeros(8, 16, dtype=torch.bool), 180).isinf().all()
    assert (distance(torch.ones(8, 16, dtype=torch.bool), 180) == 0).all()
