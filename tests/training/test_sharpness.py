"""Detail by scale, and structure that is made again."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training import texture
from training.data import decibels
from training.sharpness import BANDS, power, ratios


def stripes(cycles: int, height: int = 128) -> torch.Tensor:
    """A picture of so many cycles in a height, along longitude."""
    columns = torch.arange(2 * height) / height
    return torch.sin(2 * torch.pi * cycles * columns).expand(1, 3, height, 2 * height)


def test_power_lies_in_the_band_of_the_waves() -> None:
    for number, (low, high) in enumerate(BANDS[:-2]):
        found = power(stripes((low + high) // 2))[0]
        assert int(found.argmax()) == number
        assert found[number] > 20 * (found.sum() - found[number])


def test_blurring_takes_fine_detail_and_leaves_broad() -> None:
    torch.manual_seed(0)
    sharp = torch.randn(4, 3, 128, 256)
    found = ratios(F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="circular"), 3, 1), sharp)
    assert found["power_4_8"] > 0.9
    assert found["power_32_64"] < 0.4
    assert ratios(sharp, sharp)["power_64_96"] == 1


def test_decibels_are_those_of_the_mean_square() -> None:
    picture = torch.zeros(2, 3, 8, 16)
    assert (decibels(picture + 0.2, picture) - 20).abs().max() < 1e-3


def test_a_blurred_picture_has_a_steeper_spectrum_and_gentler_steps() -> None:
    noise = torch.rand(4, 3, 256, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    assert abs(texture.slope(noise)) < 0.1
    assert texture.slope(blurred) < -0.5
    assert (texture.steepness(blurred) < texture.steepness(noise)).all()
