"""Low hills, dunes or drifts along the horizon, in the colours of the ground."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training import noise
from training.drawing import haze
from training.scenes import Scene
from training.shading import COLOURS, Light, blend, mix, rgb, smooth
from training.terrain import look

_TALL = {"meadow": 1.1, "desert": 1.3, "snow": 0.9}
"""Heights in metres, a dozen metres away; sea and plaza are flat to the horizon."""


def draw_hills(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun: Tensor, offset: Tensor
) -> Tensor:
    """Hills over the upper half `picture` (3, h, W), a few degrees high."""
    if scene.ground not in _TALL:
        return picture
    tall = _TALL[scene.ground]
    dunes = scene.ground == "desert"

    def height(points: Tensor) -> Tensor:
        radius = points.norm(dim=-1)
        broad = noise.sample(points * 0.30, offset)
        crest = 1 - noise.sample(points * 0.22, offset + 7).abs()
        body = 0.25 + 0.45 * broad + (0.55 * crest if dunes else 0.2 * crest)
        return tall * smooth(5.0, 16.0, radius) * (radius / 14).clamp(min=1) ** 0.6 * body - 0.06

    seen = look(azimuth, elevation, height, 5.0, 60.0, 112)
    pixel = math.pi / (2 * elevation.shape[0])
    grain = noise.grain(seen.place * 5.0, offset + 3, seen.distance * 5.0 * pixel)
    facing = (seen.normal @ sun).clamp(-1, 1)
    dark, bright = (rgb(c, picture) for c in COLOURS[scene.ground])
    tone = 0.46 + 0.10 * grain + (0.9 if scene.sky != "overcast" else 0.2) * (facing - sun[1].clamp(min=0))
    colour = mix(dark, bright, tone.clamp(-0.35, 1.1))
    if scene.ground == "meadow":
        woods = smooth(0.35, 0.75, noise.sample(seen.place * 0.9, offset + 11) + 0.25 * grain)
        colour = mix(colour, rgb((0.13, 0.25, 0.11), picture) * (1 + 0.3 * grain), 0.8 * woods)
    tint = rgb(light.tint, picture)
    if scene.ground == "snow" and scene.time == "night":
        tint = rgb(blend((0.42, 0.48, 0.66), light.tint, 0.2), picture)
    depth = 1 - torch.exp(-(seen.distance - 4) / 30)
    return mix(picture, haze(scene, light, (colour * tint).clamp(0, 1), depth), seen.mask)
