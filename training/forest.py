"""A forest: rows of conifers or of leafy trees, the nearest large enough to show branches, boughs and trunks."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.drawing import around, chances, haze
from training.scenes import Scene
from training.shading import RGB, Light, blend, mix, rgb, smooth

_ROWS = ((0.46, 0.62, 66, 0.6), (0.70, 0.30, 38, 0.3), (1.0, 0.03, 19, 0.0))
"""For each row: height, distance in the air, trees around the horizon, height of the closed wood behind them."""


def draw_forest(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Trees over the upper half `picture` (3, h, W)."""
    conifers = scene.ground == "snow" or dice.random() < 0.55
    leaf: RGB = (0.12, 0.27, 0.15) if conifers else dice.choice(((0.26, 0.42, 0.13), (0.32, 0.42, 0.14)))
    if scene.ground == "desert" and not conifers:
        leaf = (0.38, 0.42, 0.18)
    tall = math.radians(dice.uniform(36, 48))
    pixel = math.pi / (2 * elevation.shape[0])
    chance = chances(scene, picture)
    leaves = 0.7 * noise.grain(around(azimuth, elevation, 62.0), offset, 62.0 * pixel)
    leaves = leaves + 0.7 * noise.grain(around(azimuth, elevation, 140.0), offset + 5, 140.0 * pixel)
    for scale, far, count, solid in _ROWS:
        place = torch.remainder(azimuth / (2 * math.pi) * count, count)
        highest = torch.zeros_like(elevation * azimuth)
        tone = torch.zeros_like(highest)
        bark = torch.zeros_like(highest)
        for shift in (0.0, 0.5):
            cell = torch.remainder(place + shift, count)
            which = cell.floor().long() % count
            size = chance(count)
            present = 1.0 if solid > 0 else (chance(count) < 0.74).float()[which]
            x = cell - cell.floor() - 0.5 + 0.25 * (chance(count)[which] - 0.5)
            top = tall * scale * (0.60 + 0.40 * size[which]) * present
            level = elevation / top.clamp(min=1e-3)
            side = x * torch.sign(torch.sin(torch.as_tensor(sun_azimuth) - azimuth))
            if conifers:
                inside, shadow, wood = _conifer(level, x, top, pixel, leaves, side)
            else:
                inside, shadow, wood = _leafy(level, x, top, leaves, side)
            newer = inside > highest
            tone = torch.where(newer, shadow * (0.82 + 0.36 * size.flip(0)[which]), tone)
            bark = torch.where(newer, wood, bark)
            highest = torch.maximum(highest, inside)
        if solid:
            edge = tall * scale * solid * (0.8 + 0.10 * leaves)
            wall = smooth(-pixel, pixel, edge - elevation)
            tone = torch.where(highest < wall, 0.60 + 0.16 * leaves, tone)
            highest = torch.maximum(highest, wall)
        tone = tone * (0.74 + 0.26 * smooth(0.0, 0.16, elevation))
        colour = rgb(leaf, picture) * tone.clamp(0.22, 1.6)
        if scene.ground == "snow":
            colour = mix(colour, rgb((0.90, 0.94, 0.99), picture), 0.72 * smooth(0.86, 1.22, tone))
        colour = mix(colour, rgb((0.30, 0.22, 0.16), picture) * tone.clamp(0.4, 1.2), bark)
        tint = rgb(blend(light.tint, (0.42, 0.50, 0.70), 0.35) if scene.time == "night" else light.tint, picture)
        picture = mix(picture, haze(scene, light, colour * tint, far), highest)
    return picture


def _conifer(
    level: Tensor, x: Tensor, top: Tensor, pixel: float, leaves: Tensor, side: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Coverage, tone and wood of a spruce: tiers of drooping boughs that are light on top and dark below."""
    tiers = level * 7.0 + 1.6 * x.abs()
    notch = torch.remainder(tiers, 1.0)
    width = 0.47 * (1.02 - level).clamp(min=0)
    reach = width * (0.70 + 0.34 * (1 - notch)) + 0.035 * leaves * (1.05 - level).clamp(min=0)
    inside = smooth(-0.035, 0.035, reach - x.abs()) * smooth(pixel, -pixel, level * top - top)
    inside = inside * smooth(0.015, 0.05, level)
    tone = 0.52 + 0.62 * notch**1.5 + 0.16 * leaves - 0.75 * side
    trunk = smooth(0.035, 0.02, x.abs()) * smooth(0.07, 0.05, level) * (top > 0)
    return torch.maximum(inside * (top > 0), trunk), tone, trunk * (1 - inside)


def _leafy(level: Tensor, x: Tensor, top: Tensor, leaves: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coverage, tone and wood of a leafy tree: clumps of leaves over a trunk that divides."""
    round_ = 1 - ((level - 0.63) / 0.37) ** 2 - (x / 0.47) ** 2
    crown = smooth(-0.06, 0.14, round_ + 0.42 * leaves) * (top > 0)
    fork = 0.030 + 0.10 * (level - 0.34).clamp(min=0)
    trunk = smooth(0.014, -0.014, (x.abs() - 0.35 * (level - 0.36).clamp(min=0)).abs() - fork)
    trunk = trunk * smooth(0.62, 0.52, level) * (top > 0)
    gaps = smooth(0.10, -0.10, crown - 0.55)
    wood = trunk * torch.maximum(gaps, smooth(0.30, 0.24, level))
    inside = torch.maximum(crown, trunk)
    tone = 0.58 + 0.42 * (level - 0.5) + 0.26 * leaves - 0.60 * side + 0.25 * round_.clamp(0, 1)
    return inside, torch.where(wood > 0.5, 0.8 - 0.8 * side, tone), wood
