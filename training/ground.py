"""The lower half of the sphere: a plane one metre below the camera, out to the horizon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import RGB, Light, mix, rgb, smooth

_COLOURS: dict[str, tuple[RGB, RGB]] = {
    "meadow": ((0.22, 0.42, 0.13), (0.50, 0.64, 0.24)),
    "desert": ((0.76, 0.55, 0.32), (0.94, 0.77, 0.50)),
    "snow": ((0.70, 0.78, 0.90), (0.96, 0.97, 1.0)),
    "plaza": ((0.50, 0.48, 0.46), (0.68, 0.66, 0.62)),
}
_HAZE_METRES = {"meadow": 34.0, "desert": 30.0, "snow": 26.0, "plaza": 45.0, "sea": 40.0}


def draw_ground(
    scene: Scene, light: Light, rays: Tensor, upper: Tensor, sun: Tensor, sun_azimuth: float, offset: Tensor
) -> Tensor:
    """The ground (3, h, W) in [0, 1] for the unit `rays` (h, W, 3) of the lower half.

    `upper` (3, h, W) is the finished upper half: the sea mirrors it and its last row is the colour of the haze.
    """
    down = (-rays[..., 1]).clamp(min=1e-3)
    distance = 1 / down
    if scene.ground == "sea":
        ground = _sea(scene, light, rays, down, upper, sun, sun_azimuth, offset)
    else:
        ground = _land(scene, light, rays, distance, sun, offset)
    haze = 1 - torch.exp(-((distance - 1) / _HAZE_METRES[scene.ground]).clamp(min=0))
    if scene.landmark != "none":
        haze = haze * 0.55
    thin = 0.85 if scene.ground != "sea" else 0.5
    ground = mix(ground, rgb(light.horizon, rays), haze * thin)
    if scene.weather == "fog":
        ground = mix(ground, rgb(light.fog, rays), 1 - torch.exp(-distance / 4.5))
    return ground.clamp(0, 1)


def _land(scene: Scene, light: Light, rays: Tensor, distance: Tensor, sun: Tensor, offset: Tensor) -> Tensor:
    """Grass, sand, snow or stone, textured by noise that fades before it becomes finer than a pixel."""
    spot = rays * distance.unsqueeze(-1)
    spot = spot * torch.tensor([1.0, 0.0, 1.0], device=rays.device)
    near = torch.exp(-distance / 9)
    broad = noise.sample(spot * 1.1, offset)
    fine = noise.sample(spot * 9.0, offset + 31) * near
    dark, bright = (rgb(c, rays) for c in _COLOURS[scene.ground])
    if scene.ground == "desert":
        ripple = torch.sin(7 * (spot[..., 0] * 0.8 + spot[..., 2] * 0.6) + 1.6 * broad) * near
        tone = 0.5 + 0.22 * broad + 0.20 * ripple
    elif scene.ground == "snow":
        tone = 0.62 + 0.24 * broad + 0.06 * fine
    elif scene.ground == "meadow":
        tone = 0.46 + 0.24 * broad + 0.24 * fine
    else:
        tone = 0.55 + 0.08 * broad + 0.10 * fine
    colour = mix(dark, bright, tone.clamp(0, 1))
    if scene.ground == "plaza":
        size = 0.62
        cells = spot / size
        across = (cells - cells.round()).abs()
        joint = torch.minimum(0.5 - across[..., 0].abs(), 0.5 - across[..., 2].abs())
        line = smooth(0.07, 0.03, joint) * torch.exp(-distance / 5)
        odd = torch.remainder(cells[..., 0].round() + cells[..., 2].round(), 2)
        colour = colour * (1 + 0.14 * (odd - 0.5) * torch.exp(-distance / 7))
        colour = mix(colour, rgb((0.30, 0.28, 0.27), rays), 0.75 * line)
    glow = 0.95 + 0.10 * (rays @ sun) * (0.3 if scene.sky == "overcast" else 1.0)
    tint = rgb(light.tint, rays)
    if scene.ground == "snow" and scene.time == "night":
        tint = rgb((0.42, 0.48, 0.66), rays)
    return colour * tint * glow


def _sea(
    scene: Scene, light: Light, rays: Tensor, down: Tensor, upper: Tensor, sun: Tensor, sun_azimuth: float,
    offset: Tensor,
) -> Tensor:  # fmt: skip
    """Water: the mirrored upper half, shaken by waves, over a deep colour; a path of light below the sun."""
    rows, columns = down.shape
    spot = rays / down.unsqueeze(-1)
    waves = noise.sample(spot * torch.tensor([2.6, 0.0, 2.6], device=rays.device), offset + 13)
    calm = torch.exp(-0.07 / down)
    mirrored = upper.flip(1)
    row = torch.arange(rows, device=rays.device, dtype=rays.dtype).view(-1, 1)
    shift = waves * (0.028 * rows) * smooth(0.0, 0.35, down)
    index = (row * 0.92 + shift).round().clamp(0, rows - 1).long()
    mirror = torch.gather(mirrored, 1, index.expand(3, rows, columns))
    deep = rgb((0.04, 0.24, 0.36), rays) * rgb(light.tint, rays)
    if scene.time == "noon" and scene.sky != "overcast":
        deep = rgb((0.05, 0.34, 0.50), rays)
    fresnel = (0.16 + 0.70 * (1 - down) ** 3).clamp(0, 1)
    water = mix(deep * (1 + 0.22 * waves * calm), mirror, fresnel)
    water = water * (1 + 0.07 * waves * calm)
    lit = scene.sky != "overcast" and (scene.time != "night" or scene.moon == "yes")
    if lit:
        azimuth = torch.atan2(rays[0, :, 0], rays[0, :, 2])
        aside = torch.remainder(azimuth - sun_azimuth + math.pi, 2 * math.pi) - math.pi
        width = 0.10 + 0.25 * down
        path = torch.exp(-((aside / width) ** 2)) * smooth(-0.7, 1.1, waves) * smooth(0.95, 0.3, down)
        strength = {"noon": 0.35, "sunset": 0.9, "dawn": 0.8, "night": 0.6}[scene.time]
        water = mix(water, rgb(light.sun, rays), path * strength)
    return water
