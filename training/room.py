"""The inside of a box-shaped room: walls, floor, windows, a lamp and furniture made of boxes."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import LIGHTS, RGB, mix, rgb, smooth

_WALLS: dict[str, RGB] = {
    "white": (0.90, 0.88, 0.84), "blue": (0.44, 0.60, 0.78), "green": (0.52, 0.68, 0.48),
    "red": (0.70, 0.30, 0.27), "yellow": (0.92, 0.80, 0.46),
}  # fmt: skip
_WOODS: tuple[RGB, ...] = ((0.52, 0.34, 0.20), (0.66, 0.46, 0.28), (0.40, 0.26, 0.18))
_CLOTHS: tuple[RGB, ...] = ((0.70, 0.24, 0.22), (0.22, 0.36, 0.62), (0.30, 0.52, 0.36), (0.86, 0.84, 0.80))

_DAYLIGHT: dict[str, RGB] = {"noon": (1.0, 1.0, 0.98), "sunset": (1.0, 0.74, 0.52), "night": (0.30, 0.36, 0.55)}

Box = tuple[tuple[float, float, float], tuple[float, float, float], RGB]
"""Lower corner, upper corner (metres, camera at the origin), colour."""


def draw_room(scene: Scene, rays: Tensor, offset: Tensor, dice: random.Random) -> Tensor:
    """The whole sphere (3, H, W) in [0, 1] for unit `rays` (H, W, 3)."""
    half_x, half_z = dice.uniform(2.0, 3.0), dice.uniform(1.8, 2.6)
    floor_y, ceiling_y = -1.35, dice.uniform(1.15, 1.45)
    low = torch.tensor([-half_x, floor_y, -half_z], device=rays.device)
    high = torch.tensor([half_x, ceiling_y, half_z], device=rays.device)
    safe = torch.where(rays.abs() < 1e-5, torch.full_like(rays, 1e-5), rays)
    reach = torch.maximum(low / safe, high / safe)
    distance, axis = reach.min(-1)
    point = rays * distance.unsqueeze(-1)
    px, py, pz = point.unbind(-1)
    colour = _surfaces(scene, axis, px, py, pz, floor_y, ceiling_y, half_x, half_z, offset, dice)
    colour, light_at = _windows(scene, colour, axis, px, py, pz, half_x, half_z, dice)
    for box in _furniture(scene, floor_y, half_x, half_z, dice):
        colour, distance = _draw_box(colour, distance, safe, box)
    point = rays * distance.unsqueeze(-1)
    night = scene.time == "night"
    lamp = torch.tensor([0.0, ceiling_y - 0.45, -0.25 * half_z], device=rays.device)
    glow = 1 / (0.55 + 0.22 * ((point - lamp) ** 2).sum(-1))
    day = 1 / (0.75 + 0.10 * ((point - light_at) ** 2).sum(-1))
    warm = rgb((1.0, 0.88, 0.66), rays)
    outside = rgb(_DAYLIGHT[scene.time], rays)
    lit = 0.34 + (0.75 if night else 0.25) * glow * warm + (0.10 if night else 0.62) * day * outside
    shown = colour * lit * 0.80
    pane = colour.max(0).values > 1.5
    shown = torch.where(pane, colour - 2, shown)
    return _lamp(shown, rays, lamp, bright=night)


def _surfaces(
    scene: Scene, axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, floor_y: float, ceiling_y: float,
    half_x: float, half_z: float, offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Colours of walls, floor and ceiling (3, H, W), darkened along the edges where they meet."""
    wall = rgb(_WALLS[scene.walls], px).expand(3, *px.shape)
    wall = mix(wall, rgb((0.92, 0.91, 0.88), px), smooth(floor_y + 0.16, floor_y + 0.12, py))
    if scene.floor == "wooden":
        board = pz / 0.24
        tone = 0.82 + 0.18 * torch.sin(board.floor() * 12.9898)
        line = smooth(0.44, 0.49, (board - board.floor() - 0.5).abs())
        grain = noise.sample(torch.stack((px * 5, py * 0, pz * 22), -1), offset)
        floor = rgb(dice.choice(_WOODS), px) * (tone + 0.05 * grain) * (1 - 0.4 * line)
    elif scene.floor == "tiled":
        u, v = px / 0.55, pz / 0.55
        odd = torch.remainder(u.floor() + v.floor(), 2)
        floor = mix(rgb((0.88, 0.86, 0.82), px), rgb(dice.choice(((0.30, 0.32, 0.36), (0.55, 0.42, 0.36))), px), odd)
    else:
        pile = noise.sample(torch.stack((px, py * 0, pz), -1) * 20, offset)
        floor = rgb(dice.choice(((0.62, 0.56, 0.48), (0.40, 0.44, 0.56), (0.56, 0.34, 0.34))), px) * (1 + 0.05 * pile)
    ceiling = rgb((0.95, 0.94, 0.91), px).expand_as(wall)
    flat = torch.where(py < 0, floor, ceiling)
    colour = torch.where(axis == 1, flat, wall)
    gap_x, gap_z = half_x - px.abs(), half_z - pz.abs()
    gap_y = torch.minimum(py - floor_y, ceiling_y - py)
    gaps = torch.stack((gap_x, gap_y, gap_z)).sort(0).values[1]
    return colour * (0.80 + 0.20 * smooth(0.0, 0.5, gaps))


def _windows(
    scene: Scene, colour: Tensor, axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, half_x: float, half_z: float,
    dice: random.Random,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Windows on one wall, a door and a picture on others. Returns the colours and the place daylight comes from.

    Panes are marked by adding 2 to their colour: they shine by themselves.
    """
    light = LIGHTS[scene.time]
    on_wall = (axis == 2) & (pz > 0)
    sky = mix(rgb(light.horizon, px), rgb(light.middle, px), smooth(0.0, 0.9, py))
    land = rgb((0.36, 0.50, 0.24), px) * rgb(light.tint, px)
    view = mix(land, sky, smooth(-0.06, 0.02, py))
    for place in dice.choice(((0.0,), (-0.48, 0.48))):
        middle, half = place * half_x, 0.72 if place == 0 else 0.55
        u, v = (px - middle).abs() / half, (py - 0.15).abs() / 0.68
        frame = ((torch.maximum(u, v) < 1.12) & on_wall).float()
        glass = (torch.maximum(u, v) < 1.0) & (u > 0.06) & (v > 0.05) & on_wall
        colour = mix(colour, rgb((0.96, 0.95, 0.92), px), frame)
        colour = torch.where(glass, view + 2, colour)
    opposite = (axis == 2) & (pz < 0)
    door = ((px - 0.5 * half_x).abs() < 0.45) & (py < 0.72) & opposite
    colour = torch.where(door, rgb(dice.choice(_WOODS), px), colour)
    art = ((px + 0.3 * half_x).abs() < 0.45) & ((py - 0.25).abs() < 0.33) & opposite
    inner = ((px + 0.3 * half_x).abs() < 0.39) & ((py - 0.25).abs() < 0.27) & opposite
    colour = torch.where(art, rgb((0.22, 0.18, 0.15), px), colour)
    canvas = mix(rgb(dice.choice(_CLOTHS), px), rgb(dice.choice(_CLOTHS), px), smooth(-0.1, 0.6, py))
    colour = torch.where(inner, canvas, colour)
    return colour, torch.tensor([0.0, 0.2, half_z * 0.8], device=px.device)


def _furniture(scene: Scene, floor_y: float, half_x: float, half_z: float, dice: random.Random) -> list[Box]:
    """The boxes of the named piece of furniture, against the wall at +x or at -x."""
    side = dice.choice((-1, 1))
    wood, cloth = dice.choice(_WOODS), dice.choice(_CLOTHS)
    parts: list[tuple[float, float, float, float, float, float, RGB]] = []
    if scene.furniture == "bed":
        parts = [
            (0.0, 1.9, 0.0, 0.32, -0.85, 0.85, wood),
            (0.05, 1.85, 0.32, 0.52, -0.82, 0.82, cloth),
            (0.08, 0.50, 0.52, 0.66, -0.70, 0.70, (0.93, 0.92, 0.90)),
            (0.0, 0.08, 0.0, 1.0, -0.9, 0.9, wood),
        ]
    elif scene.furniture == "table":
        parts = [(0.45, 1.35, 0.68, 0.76, -0.8, 0.8, wood)]
        parts += [(x, x + 0.09, 0.0, 0.68, z, z + 0.09, wood) for x in (0.48, 1.23) for z in (-0.75, 0.66)]
        parts += [(0.8, 0.95, 0.76, 0.98, -0.1, 0.1, cloth)]
    elif scene.furniture == "sofa":
        parts = [(0.1, 1.05, 0.0, 0.42, -1.1, 1.1, cloth), (0.1, 0.40, 0.42, 0.95, -1.1, 1.1, cloth),
                 (0.1, 1.0, 0.42, 0.62, -1.15, -0.92, cloth), (0.1, 1.0, 0.42, 0.62, 0.92, 1.15, cloth)]  # fmt: skip
    else:
        parts = [(0.0, 0.32, 0.0, 2.05, -1.0, 1.0, wood)]
        books: tuple[RGB, ...] = ((0.72, 0.25, 0.20), (0.20, 0.36, 0.60), (0.84, 0.72, 0.38), (0.26, 0.48, 0.32))
        for shelf in range(4):
            for place in range(6):
                z = -0.92 + place * 0.31
                tone = dice.choice(books)
                parts.append((0.32, 0.36, 0.10 + shelf * 0.5, 0.46 + shelf * 0.5, z, z + 0.26, tone))
    boxes: list[Box] = []
    for x0, x1, y0, y1, z0, z1, tone in parts:
        a, b = sorted((side * (half_x - x0), side * (half_x - x1)))
        boxes.append(((a, floor_y + y0, z0), (b, floor_y + y1, z1), tone))
    return boxes


def _draw_box(colour: Tensor, distance: Tensor, safe: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Draws one axis-aligned box where it is nearer than what is already there."""
    low, high, tone = box
    a = torch.tensor(low, device=safe.device) / safe
    b = torch.tensor(high, device=safe.device) / safe
    near, axis = torch.minimum(a, b).max(-1)
    far = torch.maximum(a, b).min(-1).values
    hit = (near < far) & (near > 0) & (near < distance)
    faces = torch.tensor([0.88, 1.05, 0.74], device=safe.device)[axis]
    return torch.where(hit, rgb(tone, safe) * faces, colour), torch.where(hit, near, distance)


def _lamp(picture: Tensor, rays: Tensor, lamp: Tensor, bright: bool) -> Tensor:
    """A round lamp below the ceiling, with a halo when it is switched on."""
    angle = torch.acos((rays @ torch.nn.functional.normalize(lamp, dim=0)).clamp(-1, 1))
    radius = math.radians(11)
    shade = rgb((1.0, 0.95, 0.80) if bright else (0.93, 0.91, 0.86), rays)
    if bright:
        picture = picture + rgb((0.30, 0.24, 0.14), rays) * torch.exp(-angle / 0.35)
    return mix(picture, shade, smooth(radius * 1.06, radius * 0.94, angle)).clamp(0, 1)
