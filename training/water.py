"""The sea: the upper half mirrored in waves, over a deep colour; the sun's path of light comes of the mirroring."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import Light, mix, rgb, smooth


def draw_sea(
    scene: Scene, light: Light, rays: Tensor, down: Tensor, upper: Tensor, sun: Tensor, offset: Tensor
) -> Tensor:
    """Water (3, h, W) for unit rays (h, W, 3) of the lower half; down (h, W) is how far they fall, above 0.

    `upper` (3, h, W) is the finished upper half.
    """
    rows = down.shape[0]
    pixel = math.pi / (2 * rows)
    distance = 1 / down
    spot = rays * distance.unsqueeze(-1) * torch.tensor([1.0, 0.0, 1.0], device=rays.device)
    spacing = distance**2 * pixel
    slope_x = _slope(spot, offset + 13, spacing)
    slope_z = _slope(spot, offset + 77, spacing)
    # Far waves are seen from the side: only the slopes towards the eye are left, and the mirror image is drawn out.
    calm = 0.5 + 0.5 * torch.exp(-distance / 8)
    steep = 0.13 * calm
    normal = torch.stack((-steep * slope_x, torch.ones_like(down), -steep * slope_z), -1)
    normal = F.normalize(normal, dim=-1)
    cosine = (rays * normal).sum(-1)
    mirrored = rays - 2 * cosine.unsqueeze(-1) * normal
    sky = _looked_up(upper, mirrored)
    deep = rgb((0.04, 0.24, 0.34), rays) * rgb(light.tint, rays)
    if scene.time == "noon" and scene.sky != "overcast":
        deep = rgb((0.03, 0.29, 0.43), rays)
    fresnel = (0.05 + 0.90 * (1 - (-cosine).clamp(0, 1)) ** 3.2).clamp(0, 1)
    body = deep * (1 + 0.30 * calm * (0.6 * slope_x + 0.4 * slope_z)).clamp(0.4, 1.8)
    water = mix(body, sky, fresnel)
    lit = scene.sky != "overcast" and (scene.time != "night" or scene.moon == "yes")
    if lit:
        toward = (F.normalize(mirrored, dim=-1) @ sun).clamp(-1, 1)
        power = {"noon": 26, "sunset": 50, "dawn": 50, "night": 26}[scene.time]
        strength = {"noon": 0.55, "sunset": 1.0, "dawn": 0.9, "night": 0.7}[scene.time]
        sparkle = torch.exp((toward - 1) * power) * smooth(0.2, 1.5, slope_x + slope_z)
        water = mix(water, rgb(light.sun, rays), (strength * sparkle).clamp(0, 1))
    return water


def _slope(spot: Tensor, offset: Tensor, spacing: Tensor) -> Tensor:
    """The waves' slope in one direction, about N(0, 1): swell, waves and ripples, each until a ray spans them."""
    swell = noise.grain(spot * 3.0, offset, spacing * 3.0)
    waves = noise.grain(spot * 9.0, offset + 5, spacing * 9.0)
    return 0.5 * swell + 0.7 * waves + 0.5 * noise.grain(spot * 26.0, offset + 9, spacing * 26.0)


def _looked_up(upper: Tensor, rays: Tensor) -> Tensor:
    """The upper half's colours (3, h, W) in the directions `rays` (h, W, 3); what would lie below is mirrored up."""
    rows, columns = upper.shape[-2:]
    wrapped = torch.cat((upper[..., -1:], upper, upper[..., :1]), dim=-1)
    azimuth = torch.atan2(rays[..., 0], rays[..., 2])
    elevation = torch.asin(rays[..., 1].abs().clamp(max=1))
    x = (azimuth / (2 * math.pi) + 0.5) * columns + 1
    y = (1 - elevation / (math.pi / 2)) * rows
    grid = torch.stack((2 * x / (columns + 2) - 1, 2 * y / rows - 1), -1)
    return F.grid_sample(wrapped[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
