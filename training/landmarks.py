"""What stands on the horizon: mountains, forest, city, castle. Silhouettes over azimuth, layered by distance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import RGB, Light, blend, mix, rgb, smooth


def draw_landmark(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Draws the scene's landmark over the upper half.

    picture (3, h, W) in [0, 1]; azimuth (W,) and elevation (h, 1) in radians, elevations from high to 0.
    """
    if scene.landmark == "mountains":
        return _mountains(scene, light, picture, azimuth, elevation, sun_azimuth, offset, dice)
    if scene.landmark == "forest":
        return _forest(scene, light, picture, azimuth, elevation, offset, dice)
    if scene.landmark == "city":
        return _city(scene, light, picture, azimuth, elevation, dice)
    if scene.landmark == "castle":
        return _castle(scene, light, picture, azimuth, elevation, sun_azimuth, offset, dice)
    return picture


def haze(scene: Scene, light: Light, colour: Tensor, amount: float) -> Tensor:
    """Atmospheric perspective: `amount` in [0, 1] of the horizon's colour, more and greyer in fog."""
    if scene.weather == "fog":
        return mix(colour, rgb(light.fog, colour), 0.30 + 0.62 * amount)
    return mix(colour, rgb(light.horizon, colour), 0.75 * amount)


def _chances(scene: Scene, like: Tensor) -> Callable[[int], Tensor]:
    """A function that gives `count` further random numbers in [0, 1), the same ones on every device."""
    generator = torch.Generator().manual_seed(scene.seed % 1_000_003)
    return lambda count: torch.rand(count, generator=generator).to(like.device)


def _circle(azimuth: Tensor, cells: float, height: float) -> Tensor:
    """Points (W, 3) on a horizontal circle in the noise volume, so that profiles wrap."""
    return torch.stack((azimuth.sin() * cells, torch.full_like(azimuth, height), azimuth.cos() * cells), -1)


def _mountains(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    peak = math.radians(dice.uniform(26, 38))
    rock: RGB = dice.choice(((0.40, 0.37, 0.36), (0.44, 0.36, 0.30), (0.34, 0.38, 0.42)))
    if scene.ground == "desert":
        rock = (0.62, 0.42, 0.28)
    pixel = math.pi / (2 * elevation.shape[0])
    rise = torch.tensor([0.0, 20.0, 0.0], device=picture.device)
    for layer, (scale, far) in enumerate(((1.0, 0.62), (0.72, 0.36), (0.40, 0.10))):
        line = noise.sample(_circle(azimuth, 6.0 + 2 * layer, 20.0 * layer), offset)
        ridge = 1 - (noise.sample(_circle(azimuth, 11.0 + 4 * layer, 20.0 * layer + 9), offset)).abs() * 0.55
        profile = peak * scale * (0.48 + 0.26 * line + 0.36 * ridge).clamp(min=0.10)
        mask = smooth(-pixel, pixel, profile - elevation)
        surface = _circle(azimuth, 16.0, 0.0) + elevation.unsqueeze(-1) * rise
        folds = noise.sample(surface, offset + 17 * layer)
        lit = folds - noise.sample(_circle(azimuth + 0.05, 16.0, 0.7) + (surface - _circle(azimuth, 16.0, 0.0)),
                                   offset + 17 * layer)  # fmt: skip
        facing = 0.5 + 0.5 * torch.cos(azimuth - sun_azimuth)
        shade = (0.78 + 0.85 * lit.clamp(-0.6, 0.6) + 0.10 * folds - 0.12 * facing).clamp(0.35, 1.25)
        colour = rgb(rock, picture) * shade
        if scene.peaks == "snowy":
            height = elevation / (peak * scale)
            low = -0.2 if scene.ground == "snow" else 0.30
            snow = smooth(low, low + 0.25, height + 0.10 * folds)
            white = mix(rgb((0.62, 0.70, 0.84), picture), rgb((1.0, 1.0, 1.0), picture), smooth(0.55, 1.0, shade))
            colour = mix(colour, white, snow)
        elif scene.ground == "meadow" and layer == 2:
            colour = mix(colour, rgb((0.25, 0.36, 0.17), picture) * shade, 0.8)
        tint = light.tint if scene.time != "night" else blend(light.tint, (0.42, 0.50, 0.72), 0.5)
        picture = mix(picture, haze(scene, light, colour * rgb(tint, picture), far), mask)
    return picture


def _forest(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, offset: Tensor, dice: random.Random
) -> Tensor:
    conifers = scene.ground == "snow" or dice.random() < 0.6
    leaf: RGB = (0.11, 0.27, 0.15) if conifers else (0.24, 0.40, 0.12)
    if scene.ground == "desert" and not conifers:
        leaf = (0.36, 0.40, 0.16)
    tall = math.radians(dice.uniform(32, 44))
    pixel = math.pi / (2 * elevation.shape[0])
    chance = _chances(scene, picture)
    rise = torch.tensor([0.0, 60.0, 0.0], device=picture.device)
    for scale, far, count, solid in ((0.52, 0.55, 64, 0.6), (0.74, 0.28, 40, 0.35), (1.0, 0.04, 22, 0.0)):
        place = torch.remainder(azimuth / (2 * math.pi) * count, count)
        highest = torch.zeros_like(elevation * azimuth)
        tone = torch.zeros_like(highest)
        for shift in (0.0, 0.5):
            cell = torch.remainder(place + shift, count)
            which = cell.floor().long() % count
            height = chance(count)
            present = 1.0 if solid > 0 else (chance(count) < 0.72).float()[which]
            x = cell - cell.floor() - 0.5 + 0.25 * (chance(count)[which] - 0.5)
            top = tall * scale * (0.62 + 0.38 * height[which]) * present
            if conifers:
                level = elevation / top.clamp(min=1e-3)
                notch = torch.remainder(level * 5.0, 1.0)
                reach = 0.44 * (1 - level) + 0.09 * (1 - notch) * (1 - level).clamp(min=0.1)
                inside = smooth(-0.05, 0.05, reach - x.abs()) * smooth(pixel, -pixel, elevation - top)
                shadow = 0.72 + 0.5 * notch * 0.5 - 0.5 * x
            else:
                level = elevation / top.clamp(min=1e-3)
                crown = 1 - ((level - 0.62) / 0.38) ** 2 - (x / 0.46) ** 2
                trunk = smooth(0.06, 0.03, x.abs()) * smooth(0.5, 0.45, level) * (top > 0)
                inside = torch.maximum(smooth(-0.10, 0.10, crown) * (top > 0), trunk)
                shadow = 0.62 + 0.5 * level - 0.4 * x - 0.35 * trunk
            newer = inside > highest
            tone = torch.where(newer, shadow * (0.8 + 0.4 * height.flip(0)[which]), tone)
            highest = torch.maximum(highest, inside)
        if solid:
            wall = smooth(-pixel, pixel, tall * scale * solid * 0.8 - elevation).expand_as(highest)
            tone = torch.where(highest < wall, torch.full_like(tone, 0.62), tone)
            highest = torch.maximum(highest, wall)
        points = _circle(azimuth, 60.0, 0.0) + elevation.unsqueeze(-1) * rise
        tone = (tone + 0.10 * noise.sample(points, offset)).clamp(0.3, 1.4)
        colour = rgb(leaf, picture) * tone
        if scene.ground == "snow":
            colour = mix(colour, rgb((0.86, 0.91, 0.97), picture), 0.55 * smooth(0.75, 1.15, tone))
        tint = rgb(blend(light.tint, (0.42, 0.50, 0.70), 0.35) if scene.time == "night" else light.tint, picture)
        picture = mix(picture, haze(scene, light, colour * tint, far), highest)
    return picture


def _city(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, dice: random.Random
) -> Tensor:
    """Three rows of towers around a centre, with lit windows when it is dark."""
    chance = _chances(scene, picture)
    centre = dice.uniform(-math.pi, math.pi)
    spread = dice.choice((1.1, 1.6, 9.0))
    tall = math.radians(dice.uniform(28, 40))
    pixel = math.pi / (2 * elevation.shape[0])
    dark = {"noon": 0.0, "dawn": 0.15, "sunset": 0.55, "night": 1.0}[scene.time]
    aside = torch.remainder(azimuth - centre + math.pi, 2 * math.pi) - math.pi
    for scale, far, count in ((1.0, 0.50, 60), (0.72, 0.26, 46), (0.46, 0.08, 34)):
        cell = torch.remainder(azimuth / (2 * math.pi) * count, count)
        which = cell.floor().long() % count
        x = cell - cell.floor()
        height = 0.22 + 0.78 * chance(count) ** 1.8
        narrow = 0.04 + 0.14 * chance(count)[which]
        tone = 0.72 + 0.45 * chance(count)[which]
        warm = chance(count)[which]
        slim = (height[which] > 0.75).float() * 0.06
        top = tall * scale * height[which] * (0.30 + 0.70 * torch.exp(-((aside / spread) ** 2)))
        body = smooth(-pixel, pixel, top - elevation)
        sides = ((x > narrow + slim) & (x < 1 - narrow - slim)).float()
        low = 0.30 * tall * scale * (0.3 + 0.7 * torch.exp(-((aside / spread) ** 2)))
        stump = smooth(-pixel, pixel, low - elevation)
        mask = torch.maximum(body * sides, stump)
        base = mix(rgb((0.50, 0.56, 0.64), picture), rgb((0.66, 0.58, 0.50), picture), warm) * tone
        left = (0.86 + 0.22 * smooth(0.35, 0.55, x)).expand_as(mask)
        colour = base * left * rgb(light.tint, picture)
        if scene.time == "night":
            colour = colour * 0.62
        floor_angle, room_angle = math.radians(2.6), 2 * math.pi / count / 3
        v = elevation / floor_angle
        u = azimuth / room_angle
        glass = smooth(0.40, 0.30, (v - v.floor() - 0.5).abs()) * smooth(0.40, 0.30, (u - u.floor() - 0.5).abs())
        pane = ((v.floor() * 37 + torch.remainder(u.floor(), 3 * count) * 101) % 1009).long()
        lamp = chance(1009)[pane]
        inside = smooth(0.2 * floor_angle, 0.6 * floor_angle, top - elevation) * sides
        lit = (lamp < 0.52).float() * dark
        unlit = colour * (0.72 if dark < 0.9 else 0.9)
        window = mix(unlit, rgb((1.0, 0.83, 0.48), picture), lit * (0.75 + 0.25 * tone))
        colour = mix(colour, window, glass * inside * 0.92)
        picture = mix(picture, haze(scene, light, colour, far * (1 - 0.45 * dark)), mask)
    return picture


def _castle(
    scene: Scene, light: Light, picture: Tensor, azimuth: Tensor, elevation: Tensor, sun_azimuth: float,
    offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """A castle on a hill: keep, curtain wall, round towers with pointed roofs, lit windows when it is dark."""
    centre = dice.uniform(-math.pi, math.pi)
    size = math.radians(dice.uniform(21, 27))
    hill_height = math.radians(dice.uniform(4, 8))
    pixel = math.pi / (2 * elevation.shape[0])
    soft = pixel / size
    x = ((torch.remainder(azimuth - centre + math.pi, 2 * math.pi) - math.pi) / size).view(1, -1)
    ground: RGB = {
        "meadow": (0.24, 0.38, 0.15), "desert": (0.66, 0.48, 0.30), "snow": (0.80, 0.86, 0.94),
        "plaza": (0.40, 0.40, 0.34), "sea": (0.32, 0.33, 0.29),
    }[scene.ground]  # fmt: skip
    tint = rgb(blend(light.tint, (0.62, 0.66, 0.84), 0.6) if scene.time == "night" else light.tint, picture)
    uneven = 1 + 0.10 * noise.sample(_circle(azimuth, 26.0, 3.0), offset)
    profile = hill_height * torch.exp(-((x / 1.75) ** 2)) * uneven
    rise = torch.tensor([0.0, 40.0, 0.0], device=picture.device)
    bumps = noise.sample(_circle(azimuth, 30.0, 0.0) + elevation.unsqueeze(-1) * rise, offset)
    side = math.copysign(1, math.sin(sun_azimuth))
    slope = rgb(ground, picture) * (0.86 + 0.12 * bumps - 0.10 * side * x.clamp(-1, 1))
    hill = smooth(0.0, 2 * pixel, profile - elevation) * smooth(3.4, 3.0, x.abs())
    stone: RGB = dice.choice(((0.68, 0.63, 0.56), (0.60, 0.60, 0.63), (0.76, 0.70, 0.60)))
    roof: RGB = dice.choice(((0.55, 0.20, 0.16), (0.20, 0.26, 0.42), (0.36, 0.24, 0.22)))
    y = (elevation - hill_height * 0.80) / size
    picture_out = picture
    glow = {"noon": 0.0, "dawn": 0.35, "sunset": 0.75, "night": 1.0}[scene.time]

    def paint(mask: Tensor, colour: Tensor, far: float = 0.16) -> None:
        nonlocal picture_out
        picture_out = mix(picture_out, haze(scene, light, colour, far), mask)

    def box(middle: float, half: float, top: float, bottom: float = -0.5) -> Tensor:
        wide = smooth(soft, -soft, (x - middle).abs() - half)
        return wide * smooth(soft, -soft, y - top) * smooth(-soft, soft, y - bottom)

    def wall(middle: float, half: float, top: float, tone: float) -> None:
        round_shade = tone * (0.80 + 0.32 * ((x - middle) / half * 0.5 + 0.5).clamp(0, 1))
        paint(box(middle, half, top), rgb(stone, picture) * round_shade * tint)

    def battlement(middle: float, half: float, top: float, tone: float) -> None:
        wall(middle, half, top, tone)
        teeth = (torch.remainder((x - middle) / 0.13, 1.0) < 0.55).float()
        paint(box(middle, half, top + 0.075, top - 0.02) * teeth, rgb(stone, picture) * tone * tint)

    def cone(middle: float, half: float, bottom: float, height: float) -> None:
        t = ((y - bottom) / height).clamp(0, 1)
        mask = smooth(soft, -soft, (x - middle).abs() - half * (1 - t)) * smooth(-soft, soft, y - bottom)
        tone = 0.85 + 0.35 * (x - middle) / half
        paint(mask * smooth(soft, -soft, y - bottom - height), rgb(roof, picture) * tone * tint)

    def window(middle: float, level: float, half: float = 0.045, tall: float = 0.085) -> None:
        colour = mix(rgb((0.16, 0.15, 0.18), picture) * tint, rgb((1.0, 0.80, 0.42), picture), glow)
        mask = box(middle, half, level + tall, level - tall)
        paint(mask, colour.expand_as(picture), 0.05)

    keep = dice.uniform(0.85, 1.05)
    battlement(0.0, 0.42, keep, 0.92)
    for side in (-1, 1):
        wall(side * 0.42, 0.13, keep + 0.18, 0.96)
        cone(side * 0.42, 0.19, keep + 0.18, 0.38)
    tall = dice.uniform(1.35, 1.55)
    spot = dice.choice((-0.12, 0.12))
    wall(spot, 0.15, tall, 1.0)
    cone(spot, 0.22, tall, 0.46)
    window(spot, tall - 0.22)
    for level in (0.45, 0.75):
        window(-0.2, level)
        window(0.2, level)
    battlement(0.0, 1.05, 0.34, 1.0)
    for side in (-1, 1):
        height = dice.uniform(0.60, 0.80)
        wall(side * 1.05, 0.20, height, 1.02)
        cone(side * 1.05, 0.28, height, 0.44)
        window(side * 1.05, height - 0.2)
        window(side * 0.6, 0.12)
    paint(box(0.0, 0.15, 0.20), rgb((0.17, 0.12, 0.09), picture) * tint.expand_as(picture), 0.05)
    return mix(picture_out, haze(scene, light, slope * tint, 0.10), hill)
