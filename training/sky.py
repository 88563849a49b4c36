"""The upper half of the sphere: gradient, sun or moon, stars; the clouds are `clouds`'."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.clouds import draw_clouds
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
    degrees = {"noon": (36, 58), "sunset": (3, 9), "dawn": (4, 10), "night": (20, 42)}[scene.time]
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
        # The band of light along the horizon on the sun's side.
        flat = torch.exp(-up / 0.10) * torch.exp((toward - 1) * 1.6)
        sky = mix(sky, rgb(light.sun, like), 0.45 * flat)
    if scene.time == "night" and not overcast:
        sky = _stars(scene, sky, rays, up, offset)
    if not overcast and (scene.time != "night" or scene.moon == "yes"):
        sky = _moon(light, sky, rays, toward, offset) if scene.time == "night" else _sun(scene, light, sky, toward)
    if scene.sky != "clear":
        sky = draw_clouds(scene, light, rays, up, sun, toward, offset, sky)
    return sky.clamp(0, 1)


def _stars(scene: Scene, sky: Tensor, rays: Tensor, up: Tensor, offset: Tensor) -> Tensor:
    clear = scene.sky == "clear"
    small = points_of_light(rays, 34.0, 0.30 if clear else 0.16, 0.15, scene.seed % 9973)
    large = points_of_light(rays, 16.0, 0.09 if clear else 0.05, 0.16, scene.seed % 9967)
    stars = (0.65 * small + 1.25 * large) * smooth(0.02, 0.2, up)
    if clear:
        axis = torch.tensor([0.6, 0.55, -0.58], device=rays.device)
        band = rays @ torch.nn.functional.normalize(axis, dim=0)
        dust = noise.octaves(rays * 14, offset, 0.09, 2)
        milky = torch.exp(-((band / 0.20) ** 2)) * smooth(-1.4, 1.4, dust)
        lane = torch.exp(-(((band - 0.02) / 0.06) ** 2)) * smooth(0.1, 1.2, dust)
        sky = sky + rgb((0.22, 0.19, 0.26), rays) * (milky * (1 - 0.7 * lane)) * smooth(0.0, 0.3, up)
    return sky + rgb((1.0, 0.98, 0.92), rays) * stars


def _moon(light: Light, sky: Tensor, rays: Tensor, toward: Tensor, offset: Tensor) -> Tensor:
    """A full moon with its seas, a bright halo and a wide one."""
    angle = torch.acos(toward)
    radius = math.radians(4.8)
    halo = 0.50 * torch.exp(-angle / 0.11) + 0.28 * torch.exp(-angle / 0.45)
    sky = sky + rgb((0.58, 0.66, 0.86), rays) * halo
    seas = 1 - 0.26 * smooth(0.0, 0.9, noise.octaves(rays * 46, offset, 0.25, 2))
    limb = 1 - 0.18 * smooth(0.4, 1.0, angle / radius)
    return mix(sky, rgb(light.sun, rays) * (seas * limb), smooth(radius * 1.1, radius * 0.92, angle))


def _sun(scene: Scene, light: Light, sky: Tensor, toward: Tensor) -> Tensor:
    """The sun's disc, the glare around it and the light that it spreads over the sky."""
    angle = torch.acos(toward)
    wide, strength = (0.24, 0.42) if scene.time == "noon" else (0.46, 0.74)
    glow = strength * torch.exp(-angle / wide) + 0.75 * torch.exp(-angle / 0.075)
    sky = mix(sky, rgb(light.sun, sky), glow.clamp(0, 1))
    radius = math.radians(2.8 if scene.time == "noon" else 3.6)
    core = (1.0, 1.0, 0.95) if scene.time != "sunset" else (1.0, 0.97, 0.80)
    return mix(sky, rgb(core, sky), smooth(radius * 1.35, radius * 0.9, angle))
