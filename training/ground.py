"""The lower half of the sphere: a plane one metre below the camera, out to the horizon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training import noise
from training.drawing import around
from training.scenes import Scene
from training.shading import COLOURS, Light, mix, rgb, smooth
from training.sky import points_of_light
from training.water import draw_sea

_HAZE_METRES = {"meadow": 34.0, "desert": 30.0, "snow": 26.0, "plaza": 45.0, "sea": 40.0}


def draw_ground(
    scene: Scene, light: Light, rays: Tensor, upper: Tensor, sun: Tensor, azimuth: Tensor, elevation: Tensor,
    offset: Tensor,
) -> Tensor:  # fmt: skip
    """The ground (3, h, W) in [0, 1] for the unit `rays` (h, W, 3) of the lower half.

    `upper` (3, h, W) is the finished upper half: the sea mirrors it. azimuth (W,) and elevation (h, 1) in radians.
    """
    down = (-rays[..., 1]).clamp(min=1e-3)
    distance = 1 / down
    if scene.ground == "sea":
        ground = draw_sea(scene, light, rays, down, upper, sun, offset)
    else:
        ground = _land(scene, light, rays, distance, sun, azimuth, elevation, offset)
    haze = 1 - torch.exp(-((distance - 1) / _HAZE_METRES[scene.ground]).clamp(min=0))
    if scene.landmark != "none":
        haze = haze * 0.55
    thin = 0.85 if scene.ground != "sea" else 0.5
    ground = mix(ground, rgb(light.horizon, rays), haze * thin)
    if scene.weather == "fog":
        ground = mix(ground, rgb(light.fog, rays), 1 - torch.exp(-distance / 4.5))
    return ground.clamp(0, 1)


def _land(
    scene: Scene, light: Light, rays: Tensor, distance: Tensor, sun: Tensor, azimuth: Tensor, elevation: Tensor,
    offset: Tensor,
) -> Tensor:  # fmt: skip
    """Grass, sand, snow or stone, textured by noise that fades before it becomes finer than a ray."""
    spot = rays * distance.unsqueeze(-1) * torch.tensor([1.0, 0.0, 1.0], device=rays.device)
    spacing = distance**2 * (math.pi / (2 * rays.shape[0]))
    broad = noise.sample(spot * 0.9, offset) * torch.exp(-((spacing * 0.4) ** 2))
    fine = noise.grain(spot * 14.0, offset + 31, spacing * 14.0) + 0.7 * noise.grain(
        spot * 40.0, offset, spacing * 40.0
    )
    dark, bright = (rgb(c, rays) for c in COLOURS[scene.ground])
    overcast = scene.sky == "overcast"
    if scene.ground == "desert":
        colour = _sand(spot, spacing, sun, broad, fine, dark, bright, overcast, offset)
    elif scene.ground == "snow":
        colour = _snow(spot, spacing, sun, broad, fine, dark, bright, overcast, offset)
    elif scene.ground == "meadow":
        colour = _grass(scene, rays, distance, azimuth, elevation, broad, fine, dark, bright, offset)
    else:
        colour = _stones(spot, distance, spacing, broad, fine, dark, bright)
    glow = 0.95 + 0.10 * (rays @ sun) * (0.3 if overcast else 1.0)
    tint = rgb(light.tint, rays)
    if scene.ground == "snow" and scene.time == "night":
        tint = rgb((0.42, 0.48, 0.66), rays)
    return colour * tint * glow


def _relief(height: Tensor, spot: Tensor, sun: Tensor) -> Tensor:
    """How much a surface of this height (h, W), in metres, over the places `spot` leans towards the sun."""
    x, z = spot[..., 0], spot[..., 2]

    def along(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.roll(-1, 1) - values.roll(1, 1), torch.gradient(values, dim=0)[0] * 2

    (ha, hb), (xa, xb), (za, zb) = along(height), along(x), along(z)
    area = xa * zb - xb * za
    area = torch.where(area.abs() < 1e-9, torch.full_like(area, 1e-9), area)
    slope_x, slope_z = (ha * zb - hb * za) / area, (xa * hb - xb * ha) / area
    return (-(slope_x * sun[0] + slope_z * sun[2])).clamp(-1, 1)


def _sand(
    spot: Tensor, spacing: Tensor, sun: Tensor, broad: Tensor, fine: Tensor, dark: Tensor, bright: Tensor,
    overcast: bool, offset: Tensor,
) -> Tensor:  # fmt: skip
    """Ripples across the wind, which bend and fork, with a lit and a shaded side; grains."""
    bend = noise.sample(spot * 2.2, offset + 3)
    phase = 13.0 * (0.8 * spot[..., 0] + 0.6 * spot[..., 2]) + 5.5 * bend
    seen = torch.exp(-((spacing * 2.6) ** 2))
    ripple = 1 - torch.sin(phase / 2).abs() * 2
    lean = _relief(0.026 * ripple * seen + 0.10 * broad, spot, sun) * (0.35 if overcast else 1.0)
    tone = 0.46 + 0.14 * broad + 0.07 * fine + 0.10 * ripple * seen + 0.48 * lean
    return mix(dark, bright, tone.clamp(-0.3, 1.15))


def _snow(
    spot: Tensor, spacing: Tensor, sun: Tensor, broad: Tensor, fine: Tensor, dark: Tensor, bright: Tensor,
    overcast: bool, offset: Tensor,
) -> Tensor:  # fmt: skip
    """Wind-blown drifts with blue shadows, and grains that glitter."""
    wind = torch.tensor([5.0, 0.0, 11.0], device=spot.device)
    drift = noise.grain(spot * wind, offset + 9, spacing * 8) + 0.6 * noise.grain(spot * wind * 2, offset, spacing * 16)
    lean = _relief(0.032 * drift, spot, sun) * (0.45 if overcast else 1.0)
    tone = 0.62 + 0.14 * broad + 0.05 * drift + 0.05 * fine + 0.55 * lean
    return mix(dark, bright, tone.clamp(-0.25, 1.1)) + 0.12 * smooth(1.9, 2.8, fine)


def _grass(
    scene: Scene, rays: Tensor, distance: Tensor, azimuth: Tensor, elevation: Tensor, broad: Tensor, fine: Tensor,
    dark: Tensor, bright: Tensor, offset: Tensor,
) -> Tensor:  # fmt: skip
    """Blades that stand upright, tufts, patches of another green, and flowers."""
    pixel = math.pi / (2 * rays.shape[0])
    near = smooth(0.97, 0.55, -rays[..., 1])
    blades = torch.zeros_like(distance)
    for cells in (110.0, 210.0):
        strokes = around(azimuth, elevation, cells, cells * 0.30)
        blades = blades + noise.grain(strokes, offset + cells, cells * pixel) / 1.4
    tall = (0.55 + 0.9 / distance).clamp(max=1.0) * near
    tufts = noise.grain(around(azimuth, -distance.clamp(max=30).log(), 60.0, 26.0), offset + 5, 60.0 * pixel)
    tone = 0.43 + 0.17 * broad + 0.11 * tufts + 0.19 * blades * tall + 0.12 * fine * (1 - 0.6 * near)
    colour = mix(dark, bright, tone.clamp(-0.3, 1.25))
    dry = smooth(0.5, 1.5, noise.sample(rays * 7, offset + 57) + 0.3 * tufts)
    colour = mix(colour, rgb((0.62, 0.60, 0.26), rays), 0.30 * dry)
    if scene.seed % 3:
        flowers = points_of_light(rays, 22.0, 0.40, 0.17, scene.seed % 9949) * smooth(0.05, 0.2, -rays[..., 1])
        flowers = flowers * smooth(0.92, 0.6, -rays[..., 1]) * smooth(-0.5, 0.3, broad)
        petal = ((0.98, 0.96, 0.90), (0.98, 0.84, 0.24), (0.86, 0.32, 0.44))[scene.seed // 3 % 3]
        colour = mix(colour, rgb(petal, rays), (1.1 * flowers).clamp(0, 0.9))
    return colour


def _stones(
    spot: Tensor, distance: Tensor, spacing: Tensor, broad: Tensor, fine: Tensor, dark: Tensor, bright: Tensor
) -> Tensor:
    """Square slabs, each of its own tone, with dark joints and worn edges."""
    cells = spot / 0.72
    whole = cells.round()
    across = (cells - whole).abs()
    joint = torch.minimum(0.5 - across[..., 0], 0.5 - across[..., 2])
    seen = torch.exp(-((spacing * 1.1) ** 2))
    own = torch.remainder(torch.sin(whole[..., 0] * 12.9898 + whole[..., 2] * 78.233) * 43758.5, 1.0) - 0.5
    line = smooth(0.055, 0.020, joint) * torch.exp(-distance / 6)
    worn = smooth(0.16, 0.05, joint) * seen
    tone = 0.52 + 0.10 * broad + 0.12 * fine + 0.55 * own * torch.exp(-distance / 9) - 0.16 * worn
    colour = mix(dark, bright, tone.clamp(-0.4, 1.3))
    odd = torch.remainder(whole[..., 0] + whole[..., 2], 2) - 0.5
    colour = colour * (1 + 0.10 * odd * torch.exp(-distance / 7))
    return mix(colour, rgb((0.24, 0.23, 0.21), spot), 0.85 * line)
