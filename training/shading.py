"""Colour arithmetic shared by everything that is drawn: mixing, soft edges, palettes of light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RGB = tuple[float, float, float]


def rgb(colour: RGB, like: Tensor) -> Tensor:
    """A colour in [0, 1] as a (3, 1, 1) tensor on `like`'s device."""
    return torch.tensor(colour, device=like.device, dtype=like.dtype).view(3, 1, 1)


def mix(a: Tensor, b: Tensor, amount: Tensor | float) -> Tensor:
    """a where amount is 0, b where it is 1."""
    return a + (b - a) * amount


def smooth(low: float, high: float, x: Tensor) -> Tensor:
    """Smooth step: 0 below `low`, 1 above `high`. With low > high the step falls."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def blend(a: RGB, b: RGB, amount: float) -> RGB:
    """`mix` for plain colours."""
    return (a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount, a[2] + (b[2] - a[2]) * amount)


COLOURS: dict[str, tuple[RGB, RGB]] = {
    "meadow": ((0.17, 0.36, 0.10), (0.54, 0.68, 0.24)),
    "desert": ((0.70, 0.48, 0.27), (0.97, 0.80, 0.53)),
    "snow": ((0.62, 0.72, 0.88), (0.97, 0.98, 1.0)),
    "plaza": ((0.44, 0.42, 0.40), (0.74, 0.71, 0.66)),
}
"""The dark and the bright colour of each kind of land."""


@dataclass(frozen=True)
class Light:
    """The colours that a time of day gives to everything. All in [0, 1]."""

    zenith: RGB
    middle: RGB
    horizon: RGB
    tint: RGB
    sun: RGB
    cloud: RGB
    cloud_shade: RGB
    fog: RGB


LIGHTS: dict[str, Light] = {
    "noon": Light(
        (0.13, 0.36, 0.74), (0.36, 0.61, 0.90), (0.76, 0.88, 0.96), (1.0, 0.99, 0.95),
        (1.0, 0.98, 0.88), (1.0, 1.0, 1.0), (0.70, 0.76, 0.84), (0.80, 0.84, 0.87),
    ),
    "sunset": Light(
        (0.20, 0.21, 0.46), (0.72, 0.36, 0.42), (1.0, 0.60, 0.24), (0.92, 0.62, 0.46),
        (1.0, 0.86, 0.50), (1.0, 0.60, 0.36), (0.48, 0.27, 0.40), (0.86, 0.62, 0.50),
    ),
    "dawn": Light(
        (0.40, 0.52, 0.82), (0.78, 0.70, 0.88), (1.0, 0.82, 0.80), (0.86, 0.79, 0.86),
        (1.0, 0.95, 0.82), (1.0, 0.84, 0.86), (0.66, 0.60, 0.78), (0.86, 0.80, 0.86),
    ),
    "night": Light(
        (0.04, 0.07, 0.22), (0.08, 0.13, 0.34), (0.20, 0.28, 0.50), (0.38, 0.44, 0.66),
        (0.95, 0.96, 1.0), (0.25, 0.29, 0.44), (0.09, 0.11, 0.23), (0.22, 0.27, 0.40),
    ),
    "overcast": Light(
        (0.56, 0.59, 0.64), (0.66, 0.69, 0.73), (0.80, 0.82, 0.84), (0.80, 0.83, 0.86),
        (0.9, 0.9, 0.9), (0.82, 0.84, 0.86), (0.56, 0.59, 0.64), (0.78, 0.80, 0.82),
    ),
}  # fmt: skip


def light_of(time: str, sky: str) -> Light:
    """The light of a time of day under a sky; an overcast sky greys whatever time it is."""
    light = LIGHTS[time]
    if sky != "overcast":
        return light
    if time == "night":
        grey: RGB = (0.16, 0.18, 0.26)
        return Light(grey, (0.19, 0.22, 0.31), (0.27, 0.30, 0.40), (0.33, 0.37, 0.50), light.sun, (0.27, 0.30, 0.38),
                     (0.13, 0.15, 0.22), (0.30, 0.33, 0.42))  # fmt: skip
    return LIGHTS["overcast"]
