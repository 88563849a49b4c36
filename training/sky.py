"""The upper half of the sphere: gradient, sun or moon, stars, clouds."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import Light, mix, rgb, smooth


def direction(azimuth: float, elevation: float, like: Tensor) -> Tensor:
    """Unit vector (3,) for angles in radians; azimuth 0 is the middle column, y points up."""
    c = math.cos(elevation)
    return torch.tensor(
        [c * math.sin(azimuth), math.sin(elevation), c * math.cos(azimuth)], device=like.device, dtype=like.dtype
    )


def sun_angles(scene: Scene, dice: random.Random) -> tuple[float, float]:
    """Azimuth and elevation, in radians, of the sun (of the moon at night)."""
    degrees = {"noon": (42, 62), "sunset": (2, 8), "dawn": (3, 9), "night": (20, 42)}[scene.time]
    return dice.uniform(-math.pi, math.pi), math.radians(dice.uniform(*degrees))


def points_of_light(rays: Tensor, cells: float, share: float, size: float, seed: int) -> Tensor:
    """Random soft dots on the sphere, brightness in [0, 1].

    The space around the sphere of radius `cells` is cut into unit cubes; a share of them holds a dot of radius
    `size` (in cubes, below 0.3). rays (h, W, 3) -> (h, W).
    """
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(64 * 64 * 64, 4, generator=generator).to(rays.device)
    scaled = rays * cells + 64
    cube = scaled.floor()
    index = torch.remainder(cube, 64).long()
    found = table[(index[..., 0] * 64 + index[..., 1]) * 64 + index[..., 2]]
    centre = 0.3 + 0.4 * found[..., :3]
    distance = ((scaled - cube - centre) ** 2).sum(-1)
    strength = ((share - found[..., 3]) / share).clamp(0, 1).sqrt()
    return torch.exp(-distance / (size * size)) * strength


def draw_sky(scene: Scene, light: Light, rays: Tensor, sun: Tensor, offset: Tensor) -> Tensor:
    """The sky (3, h, W) in [0, 1] for unit `rays` (h, W, 3) of the upper half; `sun` is a unit vector (3,)."""
    up = rays[..., 1].clamp(min=0)
    like = rays
    low = smooth(0.0, 0.34, up)
    sky = mix(rgb(light.horizon, like), rgb(light.middle, like), low)
    sky = mix(sky, rgb(light.zenith, like), smooth(0.12, 0.85, up))
    toward = (rays @ sun).clamp(-1, 1)
    overcast = scene.sky == "overcast"
    if scene.time in ("sunset", "dawn"):
        away = (1 - toward) * 0.5
        cool = rgb((0.55, 0.42, 0.52) if scene.time == "sunset" else (0.78, 0.74, 0.88), like)
        sky = mix(sky, cool, 0.55 * away * (1 - low))
    if scene.time == "night" and not overcast:
        clear = scene.sky == "clear"
        small = points_of_light(rays, 34.0, 0.34 if clear else 0.16, 0.16, scene.seed % 9973)
        large = points_of_light(rays, 20.0, 0.10 if clear else 0.05, 0.17, scene.seed % 9967)
        stars = (0.75 * small + 1.1 * large) * smooth(0.02, 0.2, up)
        if clear:
            band = rays @ torch.nn.functional.normalize(torch.tensor([0.6, 0.55, -0.58], device=like.device), dim=0)
            milky = torch.exp(-((band / 0.22) ** 2)) * smooth(-1.2, 1.6, noise.sample(rays * 12, offset))
            sky = sky + rgb((0.16, 0.15, 0.20), like) * milky * smooth(0.0, 0.3, up)
        sky = sky + rgb((1.0, 0.98, 0.92), like) * stars
    if not overcast and (scene.time != "night" or scene.moon == "yes"):
        angle = torch.acos(toward)
        if scene.time == "night":
            radius = math.radians(4.5)
            sky = sky + rgb((0.55, 0.62, 0.80), like) * (0.55 * torch.exp(-angle / 0.16))
            spots = 1 - 0.16 * smooth(-0.2, 1.0, noise.sample(rays * 60, offset))
            sky = mix(sky, rgb(light.sun, like) * spots, smooth(radius * 1.12, radius * 0.9, angle))
        else:
            wide, strength = (0.20, 0.40) if scene.time == "noon" else (0.42, 0.72)
            glow = strength * torch.exp(-angle / wide) + 0.6 * torch.exp(-angle / 0.06)
            sky = mix(sky, rgb(light.sun, like), glow.clamp(0, 1))
            radius = math.radians(2.6)
            core = (1.0, 1.0, 0.94) if scene.time != "sunset" else (1.0, 0.96, 0.74)
            sky = mix(sky, rgb(core, like), smooth(radius * 1.3, radius * 0.9, angle))
    if scene.sky != "clear":
        sky = _clouds(scene, light, rays, up, sun, toward, offset, sky)
    return sky.clamp(0, 1)


def _clouds(
    scene: Scene, light: Light, rays: Tensor, up: Tensor, sun: Tensor, toward: Tensor, offset: Tensor, sky: Tensor
) -> Tensor:
    """Clouds on a flat layer overhead, seen in perspective and lit from the side of the sun."""
    plane = rays / (up + 0.22).unsqueeze(-1)
    plane = plane * torch.tensor([9.0, 2.0, 9.0], device=rays.device)
    density = noise.sample(plane, offset)
    lit = density - noise.sample(plane + sun * 1.6, offset)
    if scene.sky == "overcast":
        cover = smooth(-2.4, 0.2, density) * 0.9
    else:
        cover = smooth(0.05, 0.95, density) * smooth(0.0, 0.10, up)
    bright = smooth(-0.9, 0.9, lit + 0.25 - 0.25 * density)
    colour = mix(rgb(light.cloud_shade, rays), rgb(light.cloud, rays), bright)
    if scene.time in ("sunset", "dawn"):
        colour = mix(colour, rgb(light.sun, rays), 0.5 * torch.exp((toward - 1) * 5) * bright)
    colour = mix(colour, rgb(light.horizon, rays), 0.75 * smooth(0.22, 0.0, up))
    return mix(sky, colour, cover * 0.94)
