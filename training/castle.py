"""A castle on a hill: keep, curtain wall, round towers with pointed roofs, lit windows when it is dark."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.drawing import around, circle, haze
from training.scenes import Scene
from training.shading import RGB, Light, blend, mix, rgb, smooth

_HILL: dict[str, RGB] = {
    "meadow": (0.25, 0.40, 0.15), "desert": (0.68, 0.50, 0.31), "snow": (0.82, 0.88, 0.95),
    "plaza": (0.38, 0.42, 0.30), "sea": (0.34, 0.36, 0.28),
}  # fmt: skip


def draw_castle(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """The castle over the upper half `picture` (3, h, W)."""
    centre = dice.uniform(-math.pi, math.pi)
    size = math.radians(dice.uniform(23, 29))
    hill_height = math.radians(dice.uniform(4, 8))
    pixel = math.pi / (2 * elevation.shape[0])
    soft = pixel / size
    x = ((torch.remainder(azimuth - centre + math.pi, 2 * math.pi) - math.pi) / size).view(1, -1)
    y = (elevation - hill_height * 0.80) / size
    tint = rgb(blend(light.tint, (0.62, 0.66, 0.84), 0.6) if scene.time == "night" else light.tint, picture)
    stone: RGB = dice.choice(((0.70, 0.64, 0.56), (0.62, 0.62, 0.64), (0.78, 0.71, 0.60)))
    roof: RGB = dice.choice(((0.58, 0.21, 0.16), (0.20, 0.27, 0.45), (0.38, 0.25, 0.22)))
    glow = {"noon": 0.0, "dawn": 0.35, "sunset": 0.8, "night": 1.0}[scene.time]
    # Which side the light comes from, -1 left to 1 right; flat light under clouds.
    side = math.sin(sun_azimuth - centre) * (0.25 if scene.sky == "overcast" else 1.0)
    wear = noise.octaves(around(azimuth, elevation, 52.0), offset, 52.0 * pixel, 2)
    course = (y / 0.052).floor()
    joint = torch.remainder(x / 0.11 + 0.5 * torch.remainder(course, 2), 1.0)
    line = torch.maximum(smooth(0.10, 0.03, joint), smooth(0.14, 0.04, torch.remainder(y / 0.052, 1.0)))
    masonry = 1 + 0.055 * wear - 0.09 * line + 0.04 * torch.sin(course * 7.3 + (x / 0.11).floor() * 3.1)
    out = picture

    def paint(mask: Tensor, colour: Tensor, far: float = 0.12) -> None:
        nonlocal out
        out = mix(out, haze(scene, light, colour, far), mask)

    def box(middle: float, half: float, top: float, bottom: float = -0.5) -> Tensor:
        wide = smooth(soft, -soft, (x - middle).abs() - half)
        return wide * smooth(soft, -soft, y - top) * smooth(-soft, soft, y - bottom)

    def wall(middle: float, half: float, top: float, tone: float, rounded: bool = True) -> None:
        across = ((x - middle) / half).clamp(-1, 1)
        shade = tone * ((0.86 + 0.30 * side * across - 0.16 * across**2) if rounded else 0.92 + 0.10 * side * across)
        # Walls are in the shadow of what overhangs them.
        shade = shade * (1 - 0.28 * smooth(0.10, 0.0, top - y))
        paint(box(middle, half, top), rgb(stone, picture) * masonry * shade * tint)

    def battlement(middle: float, half: float, top: float, tone: float) -> None:
        wall(middle, half, top, tone, rounded=False)
        teeth = smooth(0.60, 0.52, torch.remainder((x - middle) / 0.14, 1.0))
        paint(box(middle, half + 0.02, top + 0.08, top - 0.03) * torch.maximum(teeth, smooth(soft, -soft, y - top)),
              rgb(stone, picture) * masonry * 1.05 * tone * tint)  # fmt: skip

    def cone(middle: float, half: float, bottom: float, height: float) -> None:
        t = ((y - bottom) / height).clamp(0, 1)
        mask = smooth(soft, -soft, (x - middle).abs() - half * (1 - t)) * smooth(-soft, soft, y - bottom)
        across = ((x - middle) / (half * (1.02 - t))).clamp(-1, 1)
        rows = 1 - 0.12 * smooth(0.3, 0.1, torch.remainder((y - bottom) / 0.055, 1.0))
        tone = (0.86 + 0.42 * side * across - 0.20 * across**2) * rows
        paint(mask * smooth(soft, -soft, y - bottom - height), rgb(roof, picture) * tone * tint)
        pole = smooth(0.6 * soft, -0.6 * soft, (x - middle).abs() - 0.008) * box(middle, 0.1, bottom + height + 0.12,
                                                                                bottom + height - 0.06)  # fmt: skip
        paint(pole, rgb((0.20, 0.18, 0.17), picture) * tint.expand_as(picture), 0.05)
        flag = box(middle + 0.055, 0.05, bottom + height + 0.12, bottom + height + 0.06)
        paint(flag, rgb((0.80, 0.22, 0.18), picture) * tint.expand_as(picture), 0.05)

    def window(middle: float, level: float, half: float = 0.045, tall: float = 0.085) -> None:
        frame = box(middle, half + 0.018, level + tall + 0.02, level - tall - 0.02)
        paint(frame, rgb(stone, picture) * 0.72 * tint.expand_as(picture), 0.05)
        if glow > 0.5:
            halo = torch.exp(-(((x - middle) / 0.12) ** 2) - ((y - level) / 0.16) ** 2)
            paint(0.30 * glow * halo * box(middle, 0.3, level + 0.4, level - 0.4),
                  rgb((1.0, 0.74, 0.36), picture).expand_as(picture), 0.0)  # fmt: skip
        colour = mix(rgb((0.15, 0.14, 0.18), picture) * tint, rgb((1.0, 0.82, 0.46), picture), glow)
        arch = box(middle, half, level + tall, level - tall)
        paint(arch, colour.expand_as(picture), 0.03)

    keep = dice.uniform(0.85, 1.05)
    for place in (-0.62, 0.66):
        height = dice.uniform(0.62, 0.78)
        wall(place, 0.13, height, 0.90)
        cone(place, 0.18, height, 0.34)
    battlement(0.0, 0.42, keep, 0.92)
    for place in (-0.42, 0.42):
        wall(place, 0.13, keep + 0.18, 0.98)
        cone(place, 0.19, keep + 0.18, 0.40)
        window(place, keep, 0.03, 0.06)
    tall = dice.uniform(1.32, 1.48)
    spot = dice.choice((-0.12, 0.12))
    wall(spot, 0.15, tall, 1.0)
    cone(spot, 0.22, tall, 0.46)
    window(spot, tall - 0.24)
    for level in (0.48, 0.76):
        for place in (-0.22, 0.0, 0.22):
            window(place, level, 0.036, 0.07)
    battlement(0.0, 1.05, 0.34, 1.0)
    for place in (-1.05, 1.05):
        height = dice.uniform(0.60, 0.80)
        wall(place, 0.20, height, 1.02)
        cone(place, 0.28, height, 0.46)
        window(place, height - 0.2)
        window(0.57 * place, 0.12)
    paint(box(0.0, 0.17, 0.21), rgb(stone, picture) * 0.70 * tint.expand_as(picture), 0.05)
    paint(box(0.0, 0.13, 0.17), rgb((0.17, 0.12, 0.09), picture) * tint.expand_as(picture), 0.05)

    uneven = 1 + 0.14 * noise.sample(circle(azimuth, 26.0, 3.0), offset)
    profile = hill_height * torch.exp(-((x / 1.75) ** 2)) * uneven
    slope = rgb(_HILL[scene.ground], picture) * (0.84 + 0.13 * wear + 0.16 * side * x.clamp(-1, 1))
    hill = smooth(-pixel, pixel, profile - elevation) * smooth(3.4, 3.0, x.abs())
    if scene.ground in ("meadow", "plaza"):
        bush = noise.sample(circle(azimuth, 60.0, 9.0), offset)
        bushes = profile + hill_height * 0.34 * smooth(0.3, 1.2, bush) * torch.exp(-((x / 1.9) ** 4))
        green = rgb((0.15, 0.26, 0.11), picture) * (0.9 + 0.3 * wear) * tint
        paint(smooth(-pixel, pixel, bushes - elevation) * smooth(2.4, 2.0, x.abs()), green, 0.10)
    return mix(out, haze(scene, light, slope * tint, 0.10), hill)
