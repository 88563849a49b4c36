"""Unknown pixels of a panorama: what goes on into them from the known ones."""

import pytest
import torch
from dit360_core.panorama.metrics import seam_ratio
from dit360_core.sphere.filling import filled, spread
from dit360_core.sphere.views import directions

HEIGHT = 64


def smooth(height=HEIGHT):
    x, y, z = directions(height).unbind(-1)
    return torch.stack([0.5 + 0.3 * x, 0.5 + 0.2 * y * z, 0.5 - 0.4 * z]).float()


def drawn(share, seed=0):
    return (torch.rand(HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(seed)) < share).float()


def test_known_pixels_stay_bit_for_bit():
    known = drawn(0.3)
    found = filled(smooth(), known)
    assert torch.equal(found[:, known == 1], smooth()[:, known == 1])


def test_what_is_not_known_does_not_count():
    known = drawn(0.3)
    other = torch.where(known.bool(), smooth(), torch.full_like(smooth(), 1e3))
    assert torch.allclose(filled(other, known), filled(smooth(), known), atol=1e-6)


@pytest.mark.parametrize(("share", "most"), [(0.5, 0.01), (0.1, 0.03), (0.01, 0.1)])
def test_a_smooth_picture_comes_back(share, most):
    assert (filled(smooth(), drawn(share)) - smooth()).abs().mean() <= most


def test_one_colour_is_that_colour_everywhere():
    known = torch.zeros(HEIGHT, 2 * HEIGHT)
    known[30, 5] = 1
    found = filled(torch.full((3, HEIGHT, 2 * HEIGHT), 0.7), known)
    assert (found - 0.7).abs().max() <= 1e-5


@pytest.mark.parametrize("columns", [1, 37, 64])
def test_a_rolled_panorama_is_filled_with_the_same_numbers(columns):
    known = drawn(0.02)
    assert (
        filled(smooth().roll(columns, -1), known.roll(columns, -1)) - filled(smooth(), known).roll(columns, -1)
    ).abs().max() <= 1e-6


def test_it_goes_on_over_the_meridian_and_the_poles():
    """From a view straight ahead to what lies behind: no step there."""
    known = torch.zeros(HEIGHT, 2 * HEIGHT)
    known[20:44, 40:88] = 1
    found = filled(smooth(), known)
    assert found.min() >= smooth()[:, 20:44, 40:88].min() - 1e-5
    assert found.max() <= smooth()[:, 20:44, 40:88].max() + 1e-5
    steps = (found - found.roll(1, -1)).abs().mean((0, 1))
    assert steps[0] <= 2 * steps[1:20].mean() + 1e-6, "the meridian is a column like others"
    pole = found[:, 0]
    assert (pole - pole.mean(-1, keepdim=True)).abs().max() <= 0.05, "a pole is one direction"


def test_far_from_what_is_known_there_are_no_stripes():
    """Where the taps of coarse levels lie: noise whose right half is brighter, and its second differences far away."""
    noise, known = torch.rand(3, 128, 256, generator=torch.Generator().manual_seed(1)), torch.zeros(128, 256)
    noise[..., :125] *= 0.3
    known[40:80, 100:150] = 1
    far = filled(noise, known)[..., :60]
    assert (far[..., 2:] - 2 * far[..., 1:-1] + far[..., :-2]).abs().max() <= 0.004


def test_a_large_one_is_filled_at_a_part_of_its_size_and_has_no_seam():
    from PIL import Image

    known = torch.zeros(512, 1024)
    known[200:300, 300:700] = 1
    found = filled(smooth(512), known)
    assert torch.equal(found[:, known == 1], smooth(512)[:, known == 1])
    image = Image.fromarray((found.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    assert seam_ratio(image) <= 1.5


def test_nothing_known_is_black_and_says_nothing():
    assert not filled(smooth(), torch.zeros(HEIGHT, 2 * HEIGHT)).any()
    assert not spread(smooth(), torch.zeros(HEIGHT, 2 * HEIGHT)).any()
