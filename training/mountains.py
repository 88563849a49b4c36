"""Mountains: ranges with ridges and valleys, rock and snow by slope and height, bluer with distance."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.drawing import circle, haze
from training.scenes import Scene
from training.shading import RGB, Light, blend, mix, rgb, smooth
from training.terrain import look

_NEAR, _FAR = 5.0, 42.0


def draw_mountains(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun: Tensor, offset: Tensor,
    dice: random.Random,
) -> Tensor:  # fmt: skip
    """Mountains over the upper half `picture` (3, h, W)."""
    tall = math.tan(math.radians(dice.uniform(30, 42))) * 13
    rock: RGB = dice.choice(((0.42, 0.39, 0.38), (0.47, 0.39, 0.33), (0.36, 0.39, 0.43)))
    if scene.ground == "desert":
        rock = (0.66, 0.44, 0.29)

    def height(points: Tensor) -> Tensor:
        radius = points.norm(dim=-1)
        broad = noise.sample(points * 0.55, offset)
        ridges = torch.zeros_like(radius)
        for number, strength in enumerate((1.0, 0.5, 0.26, 0.13)):
            folds = 1 - 0.9 * noise.sample(points * 0.42 * 2.05**number, offset + 29 * number).abs()
            ridges = ridges + strength * folds.clamp(min=-0.5)
        rise = smooth(_NEAR, 15.0, radius)
        body = (0.40 + 0.24 * broad + 0.30 * ridges).clamp(min=0.02)
        return tall * rise * body * (radius / 15).clamp(min=1) ** 0.35 - 0.25

    seen = look(azimuth, elevation, height, _NEAR, _FAR)
    grain = noise.grain(seen.place * 6.0, offset + 3, seen.distance * 6.0 * math.pi / (2 * elevation.shape[0]))
    facing = (seen.normal @ sun).clamp(-1, 1)
    low_sun = scene.time in ("sunset", "dawn")
    shade = 0.50 + (0.78 if low_sun else 0.66) * facing.clamp(min=-0.35) + 0.07 * grain
    if scene.sky == "overcast":
        shade = 0.72 + 0.30 * seen.normal[..., 1] + 0.06 * grain
    high = seen.place[..., 1] / tall
    colour = rgb(rock, picture) * (1 + 0.10 * torch.sin(22 * high + 3 * grain))
    steep = 1 - seen.normal[..., 1]
    if scene.ground == "meadow":
        green = smooth(0.52, 0.30, high + 0.10 * grain) * smooth(0.5, 0.25, steep)
        colour = mix(colour, rgb((0.22, 0.34, 0.15), picture) * (1 + 0.12 * grain), 0.85 * green)
    if scene.peaks == "snowy":
        line = 0.0 if scene.ground == "snow" else 0.42
        snow = smooth(line, line + 0.16, high + 0.07 * grain) * smooth(0.66, 0.42, steep - 0.25 * high)
        colour = mix(colour, rgb((0.96, 0.97, 1.0), picture), snow)
    tint = light.tint if scene.time != "night" else blend(light.tint, (0.42, 0.50, 0.72), 0.5)
    lit = rgb(blend(light.tint, light.sun, 0.55), picture) if low_sun else rgb(tint, picture)
    cold = rgb(blend(tint, light.zenith, 0.35), picture)
    colour = colour * mix(cold, lit, smooth(0.35, 0.95, shade)) * shade.clamp(0.22, 1.25)
    depth = 1 - torch.exp(-(seen.distance - _NEAR) / 26)
    colour = haze(scene, light, colour.clamp(0, 1), depth * 0.95)
    picture = mix(picture, colour, seen.mask)
    # A strip of trees or stones where the slopes meet the ground.
    foot = 0.011 * (1.2 + noise.sample(circle(azimuth, 40.0, 0.0), offset))
    tone: RGB = (0.16, 0.25, 0.13) if scene.ground == "meadow" else blend(rock, (0.2, 0.2, 0.2), 0.3)
    edge = smooth(0.004, -0.004, elevation - foot)
    strip = (rgb(tone, picture) * rgb(tint, picture)).expand_as(picture)
    return mix(picture, haze(scene, light, strip, 0.35), edge * (scene.ground in ("meadow", "plaza")))
