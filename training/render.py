"""Renders scenes to equirectangular pictures: one ray of the sphere for every sample, so that they wrap exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training import noise
from training.ground import draw_ground
from training.landmarks import draw_landmark
from training.room import draw_room
from training.scenes import Scene
from training.shading import light_of, mix, rgb
from training.sky import direction, draw_sky, points_of_light, sun_angles


@lru_cache(maxsize=4)
def sphere(height: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres of an equirectangular grid.

    Returns azimuth (W,) in [-pi, pi), elevation (H, 1) from +pi/2 to -pi/2, and unit rays (H, W, 3), y up.
    """
    azimuth = ((torch.arange(width, device=device) + 0.5) / width - 0.5) * (2 * math.pi)
    elevation = ((0.5 - (torch.arange(height, device=device) + 0.5) / height) * math.pi).view(-1, 1)
    flat = elevation.cos()
    rays = torch.stack(
        (flat * azimuth.sin(), elevation.sin().expand(height, width), flat * azimuth.cos()), dim=-1
    ).contiguous()
    return azimuth, elevation, rays


@torch.no_grad()
def render_one(scene: Scene, height: int, width: int, supersample: int = 2, device: str = "cpu") -> Tensor:
    """One picture (3, height, width) in [0, 1]; `supersample` x `supersample` rays are averaged for each pixel."""
    dice = random.Random(scene.seed + 1)
    azimuth, elevation, rays = sphere(height * supersample, width * supersample, device)
    offset = torch.tensor([dice.uniform(0, noise.CELLS) for _ in range(3)], device=device)
    if scene.kind == "room":
        picture = draw_room(scene, rays, offset, dice)
    else:
        picture = _outdoors(scene, azimuth, elevation, rays, offset, dice)
    return F.avg_pool2d(picture[None], supersample)[0] if supersample > 1 else picture


def render(scenes: Sequence[Scene], height: int, width: int, supersample: int = 2, device: str = "cpu") -> Tensor:
    """A batch of pictures (N, 3, height, width) in [0, 1]."""
    return torch.stack([render_one(scene, height, width, supersample, device) for scene in scenes])


def to_uint8(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to (..., H, W, 3) bytes."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous()


def _outdoors(
    scene: Scene, azimuth: Tensor, elevation: Tensor, rays: Tensor, offset: Tensor, dice: random.Random
) -> Tensor:
    half = rays.shape[0] // 2
    light = light_of(scene.time, scene.sky)
    sun_azimuth, sun_elevation = sun_angles(scene, dice)
    sun = direction(sun_azimuth, sun_elevation, rays)
    upper = draw_sky(scene, light, rays[:half], sun, offset)
    if scene.weather == "fog":
        rising = torch.exp(-elevation[:half] / math.radians(16))
        upper = mix(upper, rgb(light.fog, rays), 0.25 + 0.75 * rising)
    upper = draw_landmark(scene, light, upper, azimuth, elevation[:half], sun, sun_azimuth, offset, dice)
    upper = upper.clamp(0, 1)
    lower = draw_ground(scene, light, rays[half:], upper, sun, azimuth, elevation[half:], offset)
    picture = torch.cat((upper, lower), dim=1)
    if scene.weather == "snowfall":
        far = points_of_light(rays, 26.0, 0.30, 0.16, scene.seed % 9941)
        near = points_of_light(rays, 13.0, 0.30, 0.16, scene.seed % 9931)
        picture = mix(picture, rgb((0.97, 0.98, 1.0), rays), (0.7 * far + 0.9 * near).clamp(0, 0.95))
    return picture.clamp(0, 1)
