"""What the things on the horizon share: distance in the air, chances, points around the horizon."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.scenes import Scene
from training.shading import Light, mix, rgb


def haze(scene: Scene, light: Light, colour: Tensor, amount: Tensor | float) -> Tensor:
    """Atmospheric perspective: `amount` in [0, 1] of the horizon's colour, more and greyer in fog."""
    if scene.weather == "fog":
        return mix(colour, rgb(light.fog, colour), 0.30 + 0.62 * amount)
    return mix(colour, rgb(light.horizon, colour), 0.72 * amount)


def chances(scene: Scene, like: Tensor) -> Callable[[int], Tensor]:
    """A function that gives `count` further random numbers in [0, 1), the same ones on every device."""
    generator = torch.Generator().manual_seed(scene.seed % 1_000_003)
    return lambda count: torch.rand(count, generator=generator).to(like.device)


def circle(azimuth: Tensor, cells: float, height: float) -> Tensor:
    """Points (W, 3) on a horizontal circle in the noise volume, so that profiles wrap."""
    return torch.stack((azimuth.sin() * cells, torch.full_like(azimuth, height), azimuth.cos() * cells), -1)


def around(azimuth: Tensor, elevation: Tensor, cells: float, rise: float | None = None) -> Tensor:
    """Points (h, W, 3) on a cylinder in the noise volume: `cells` and `rise` cells for each radian across and up."""
    up = torch.tensor([0.0, cells if rise is None else rise, 0.0], device=azimuth.device)
    return circle(azimuth, cells, 0.0) + elevation.unsqueeze(-1) * up
