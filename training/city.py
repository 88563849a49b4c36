"""A skyline: three rows of towers of several makes around a centre, with lit windows when it is dark."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from training.drawing import chances, haze
from training.scenes import Scene
from training.shading import Light, mix, rgb, smooth

_ROWS = ((1.0, 0.55, 52), (0.72, 0.26, 38), (0.50, 0.06, 26))
"""For each row: height, distance in the air, towers around the horizon."""
_FLOOR = math.radians(3.0)


def draw_city(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    dice: random.Random,
) -> Tensor:  # fmt: skip
    """Towers over the upper half `picture` (3, h, W)."""
    chance = chances(scene, picture)
    centre = dice.uniform(-math.pi, math.pi)
    spread = dice.choice((1.1, 1.6, 9.0))
    tall = math.radians(dice.uniform(34, 46))
    pixel = math.pi / (2 * elevation.shape[0])
    dark = {"noon": 0.0, "dawn": 0.2, "sunset": 0.6, "night": 1.0}[scene.time]
    aside = torch.remainder(azimuth - centre + math.pi, 2 * math.pi) - math.pi
    near_centre = 0.30 + 0.70 * torch.exp(-((aside / spread) ** 2))
    to_sun = torch.sin(torch.as_tensor(sun_azimuth) - azimuth)
    for scale, far, count in _ROWS:
        cell = torch.remainder(azimuth / (2 * math.pi) * count, count)
        which = cell.floor().long() % count
        x = cell - cell.floor()
        height = 0.20 + 0.80 * chance(count) ** 1.7
        narrow = 0.03 + 0.13 * chance(count)[which]
        tone = 0.74 + 0.40 * chance(count)[which]
        warm, make = chance(count)[which], chance(count)[which]
        top = tall * scale * height[which] * near_centre
        # Tall towers step back once; some carry a mast.
        setback = smooth(0.45, 0.50, height[which]) * 0.10
        upper = smooth(-pixel, pixel, elevation - 0.66 * top)
        edge = narrow + setback * upper
        sides = smooth(-0.012, 0.012, torch.minimum(x - edge, 1 - edge - x))
        body = smooth(-pixel, pixel, top - elevation) * sides
        mast = smooth(0.022, 0.012, (x - 0.5).abs()) * smooth(-pixel, pixel, 1.28 * top - elevation)
        mast = mast * (height[which] > 0.62) * (make > 0.4)
        low = 0.26 * tall * scale * near_centre
        stump = smooth(-pixel, pixel, low - elevation).expand_as(body)
        mask = torch.maximum(torch.maximum(body, stump), mast)
        stone = mix(rgb((0.52, 0.57, 0.64), picture), rgb((0.70, 0.60, 0.50), picture), warm) * tone
        level = (elevation / top.clamp(min=1e-3)).clamp(0, 1)
        glass = mix(rgb(light.middle, picture) * 0.50, rgb(light.horizon, picture) * 0.95, level**0.8)
        base = torch.where(make > 0.66, 0.35 * stone + 0.65 * glass, stone)
        # Two sides of each tower show, the one towards the sun brighter.
        corner = 0.30 + 0.40 * warm
        bright = torch.where(x > corner, 1 + 0.17 * to_sun, 1 - 0.17 * to_sun)
        colour = base * bright * rgb(light.tint, picture) * (0.86 + 0.16 * level)
        if scene.time == "night":
            colour = colour * 0.55
        colour = _windows(chance, colour, azimuth, elevation, count, make, dark, tone, body * (mast < 0.5))
        picture = mix(picture, haze(scene, light, colour.clamp(0, 1), far * (1 - 0.5 * dark)), mask)
    return picture


def _windows(
    chance: Callable[[int], Tensor], colour: Tensor, azimuth: Tensor, elevation: Tensor, count: int, make: Tensor,
    dark: float, tone: Tensor, inside: Tensor,
) -> Tensor:  # fmt: skip
    """Windows in a grid, in bands or in upright strips, by the make of each tower."""
    room = 2 * math.pi / count / 3
    v, u = elevation / _FLOOR, azimuth / room
    across = smooth(0.38, 0.28, (u - u.floor() - 0.5).abs())
    up = smooth(0.36, 0.26, (v - v.floor() - 0.5).abs())
    pattern = torch.where(make < 0.40, across * up, torch.where(make < 0.66, up.expand_as(colour[0]), across * 0.8))
    pane = ((v.floor() * 37 + torch.remainder(u.floor(), 3 * count) * 101) % 1009).long()
    lamp = chance(1009)[pane]
    lit = smooth(0.52, 0.48, lamp) * dark
    unlit = colour * (0.66 if dark < 0.9 else 0.85)
    warm = mix(rgb((1.0, 0.80, 0.44), colour), rgb((0.95, 0.93, 0.80), colour), chance(1009)[pane])
    window = mix(unlit, warm, lit * (0.72 + 0.28 * tone).clamp(0, 1))
    return mix(colour, window, pattern * inside * 0.92)
