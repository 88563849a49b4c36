"""Clouds: a flat layer of noise overhead, lit by marching a few steps towards the sun."""

from __future__ import annotations

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import Light, mix, rgb, smooth

_STEPS = (0.35, 0.8, 1.5)
"""How far towards the sun the cloud's own shadow is looked for, in cells of noise."""


def draw_clouds(
    scene: Scene, light: Light, rays: Tensor, up: Tensor, sun: Tensor, toward: Tensor, offset: Tensor, sky: Tensor
) -> Tensor:  # fmt: skip
    """Clouds over `sky` (3, h, W), for unit rays (h, W, 3); up (h, W) their height, toward (h, W) the sun's cosine."""
    lift = (up + 0.16).unsqueeze(-1)
    plane = rays / lift * torch.tensor([9.0, 2.0, 9.0], device=rays.device)
    spacing = 0.022 / (up + 0.06) ** 2
    density = _density(plane, offset, spacing)
    overcast = scene.sky == "overcast"
    cover = smooth(-1.7, 0.1, density) * 0.92 if overcast else smooth(0.34, 0.95, density) * smooth(0.0, 0.07, up)
    shadow = torch.zeros_like(density)
    for step in _STEPS:
        shadow = shadow + (_density(plane + sun * step, offset, spacing, 3) - 0.1).clamp(min=0) / len(_STEPS)
    folds = noise.grain(plane * 9.0, offset + 3, spacing * 9.0)
    bright = torch.exp(-2.2 * shadow) * (1 - 0.45 * smooth(0.5, 1.5, density)) + 0.08 * folds
    if overcast:
        bright = 0.35 + 0.65 * smooth(-1.1, 1.3, density - 0.9 * shadow)
    colour = mix(rgb(light.cloud_shade, rays), rgb(light.cloud, rays), bright.clamp(0, 1))
    if scene.time in ("sunset", "dawn"):
        colour = mix(colour, rgb(light.sun, rays), 0.65 * torch.exp((toward - 1) * 4) * bright)
    # Thin edges between the eye and the sun or the moon shine.
    lining = torch.exp((toward - 1) * 14) * smooth(0.9, 0.2, cover) * cover
    if not overcast:
        colour = mix(colour, rgb(light.sun, rays), (1.2 * lining).clamp(0, 0.9))
    colour = mix(colour, rgb(light.horizon, rays), 0.72 * smooth(0.24, 0.0, up))
    return mix(sky, colour, cover * 0.96)


def _density(plane: Tensor, offset: Tensor, spacing: Tensor, count: int = 4) -> Tensor:
    """How thick the layer is: broad fields of cloud, whose billows are the folds of finer noise."""
    broad = noise.sample(plane * 0.62, offset)
    billows = 0.8 - noise.octaves(plane * 1.5, offset + 41, spacing * 1.5, count, 0.55).abs()
    return 0.62 * broad + 0.80 * billows
