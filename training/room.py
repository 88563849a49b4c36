"""The inside of a box-shaped room: walls, floor, windows, lamps and furniture made of boxes, with their shadows."""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from training import noise
from training.furniture import CLOTHS, WOODS, Box, furnish
from training.scenes import Scene
from training.shading import LIGHTS, RGB, mix, rgb, smooth

_WALLS: dict[str, RGB] = {
    "white": (0.90, 0.88, 0.84), "blue": (0.42, 0.59, 0.79), "green": (0.51, 0.68, 0.47),
    "red": (0.72, 0.29, 0.26), "yellow": (0.93, 0.80, 0.44),
}  # fmt: skip
_DAYLIGHT: dict[str, RGB] = {"noon": (1.0, 1.0, 0.98), "sunset": (1.0, 0.74, 0.52), "night": (0.30, 0.36, 0.55)}
_PANE = 2.0
"""Added to the colour of what shines by itself, until everything else is lit."""


def draw_room(scene: Scene, rays: Tensor, offset: Tensor, dice: random.Random) -> Tensor:
    """The whole sphere (3, H, W) in [0, 1] for unit `rays` (H, W, 3)."""
    half_x, half_z = dice.uniform(1.9, 2.7), dice.uniform(1.8, 2.5)
    floor_y, ceiling_y = -1.35, dice.uniform(1.15, 1.45)
    low = torch.tensor([-half_x, floor_y, -half_z], device=rays.device)
    high = torch.tensor([half_x, ceiling_y, half_z], device=rays.device)
    safe = torch.where(rays.abs() < 1e-5, torch.full_like(rays, 1e-5), rays)
    distance, axis = torch.maximum(low / safe, high / safe).min(-1)
    px, py, pz = (rays * distance.unsqueeze(-1)).unbind(-1)
    spacing = distance * (math.pi / rays.shape[0])
    boxes = furnish(scene, floor_y, half_x, half_z, dice)
    colour = _surfaces(scene, axis, px, py, pz, floor_y, ceiling_y, half_x, half_z, spacing, offset, dice)
    colour = colour * _shadows(boxes, axis, px, py, pz, floor_y)
    places = dice.choice(((0.0,), (-0.48, 0.48)))
    colour = _windows(scene, colour, axis, px, py, pz, half_x, half_z, places, offset, dice)
    sunny = _sunlight(scene, axis, px, py, pz, floor_y, half_x, half_z, places, dice)
    for box in boxes:
        colour, distance, hit = _draw_box(colour, distance, rays, safe, box, offset)
        sunny = torch.where(hit, 0.35 * sunny, sunny)
    point = rays * distance.unsqueeze(-1)
    night = scene.time == "night"
    lamp = torch.tensor([0.0, ceiling_y - 0.50, -0.25 * half_z], device=rays.device)
    light_at = torch.tensor([0.0, 0.2, half_z * 0.8], device=rays.device)
    glow = 1 / (0.55 + 0.24 * ((point - lamp) ** 2).sum(-1))
    day = 1 / (0.70 + 0.12 * ((point - light_at) ** 2).sum(-1))
    warm, outside = rgb((1.0, 0.87, 0.64), rays), rgb(_DAYLIGHT[scene.time], rays)
    lit = 0.30 + (0.80 if night else 0.25) * glow * warm + (0.10 if night else 0.66) * day * outside
    lit = lit + 0.80 * sunny * outside
    shines = colour.max(0).values > 1.5
    shown = torch.where(shines, colour - _PANE, colour * lit * 0.82)
    return _lamp(shown, rays, lamp, ceiling_y, bright=night)


def _surfaces(
    scene: Scene, axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, floor_y: float, ceiling_y: float,
    half_x: float, half_z: float, spacing: Tensor, offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Colours of walls, floor and ceiling (3, H, W), darkened along the edges where they meet."""
    point = torch.stack((px, py, pz), -1)
    plaster = noise.grain(point * 16, offset, spacing * 16)
    wall = rgb(_WALLS[scene.walls], px) * (1 + 0.025 * plaster)
    if scene.seed % 4 == 1:  # stripes on the wallpaper
        along = torch.where(axis == 0, pz, px) / 0.26
        wall = wall * (1 - 0.10 * smooth(0.22, 0.28, (along - along.floor() - 0.5).abs()))
    base = smooth(floor_y + 0.15, floor_y + 0.13, py)
    wall = mix(wall, rgb((0.93, 0.92, 0.89), px) * (1 - 0.25 * smooth(floor_y + 0.12, floor_y + 0.15, py)), base)
    cornice = smooth(ceiling_y - 0.10, ceiling_y - 0.08, py)
    wall = mix(wall, rgb((0.94, 0.93, 0.90), px) * (1 - 0.2 * smooth(ceiling_y - 0.06, ceiling_y - 0.1, py)), cornice)
    if scene.floor == "wooden":
        board = pz / 0.22 + 0.5  # the middle of a board, of a tile, lies straight below the eye
        end = px / 1.3 + 0.5 + 0.37 * torch.remainder(board.floor() * 2.618, 1.0) * 3
        tone = 0.84 + 0.20 * torch.sin(board.floor() * 12.9898 + end.floor() * 4.1)
        line = torch.maximum(smooth(0.45, 0.49, (board - board.floor() - 0.5).abs()),
                             smooth(0.490, 0.497, (end - end.floor() - 0.5).abs()))  # fmt: skip
        veins = noise.grain(torch.stack((px * 9, py * 0, pz * 60), -1), offset, spacing * 45)
        floor = rgb(dice.choice(WOODS), px) * (tone + 0.09 * veins) * (1 - 0.45 * line)
    elif scene.floor == "tiled":
        u, v = px / 0.52 + 0.5, pz / 0.52 + 0.5
        odd = torch.remainder(u.floor() + v.floor(), 2)
        own = torch.sin(u.floor() * 12.9 + v.floor() * 78.2)
        grout = torch.minimum(0.5 - (u - u.floor() - 0.5).abs(), 0.5 - (v - v.floor() - 0.5).abs())
        floor = mix(rgb((0.88, 0.86, 0.82), px), rgb(dice.choice(((0.28, 0.30, 0.34), (0.55, 0.40, 0.34))), px), odd)
        floor = floor * (1 + 0.05 * own + 0.03 * noise.grain(point * 22, offset, spacing * 22))
        floor = mix(floor, rgb((0.60, 0.58, 0.55), px), 0.8 * smooth(0.035, 0.015, grout))
    else:
        pile = noise.grain(point * 55, offset, spacing * 55)
        floor = rgb(dice.choice(((0.62, 0.56, 0.48), (0.38, 0.43, 0.57), (0.57, 0.32, 0.32))), px) * (1 + 0.11 * pile)
    if scene.floor != "carpeted" and scene.seed % 2:
        floor = _rug(floor, px, pz, spacing, offset, dice)
    ceiling = (rgb((0.95, 0.94, 0.91), px) * (1 + 0.012 * plaster)).expand_as(wall)
    flat = torch.where(py < 0, floor, ceiling)
    colour = torch.where(axis == 1, flat, wall)
    gaps = torch.stack((half_x - px.abs(), torch.minimum(py - floor_y, ceiling_y - py), half_z - pz.abs()))
    return colour * (0.74 + 0.26 * smooth(0.0, 0.55, gaps.sort(0).values[1]))


def _rug(floor: Tensor, px: Tensor, pz: Tensor, spacing: Tensor, offset: Tensor, dice: random.Random) -> Tensor:
    """A rug with a border in the middle of the floor."""
    out, inner = rgb(dice.choice(CLOTHS), px), rgb(dice.choice(CLOTHS), px)
    edge = torch.maximum(px.abs() / 1.25, pz.abs() / 0.95)
    ring = smooth(0.78, 0.80, edge) * smooth(0.90, 0.88, edge)
    diamonds = torch.remainder((px.abs() + pz.abs()) / 0.3, 1.0)
    weave = 1 + 0.08 * noise.grain(torch.stack((px, px * 0, pz), -1) * 60, offset, spacing * 60)
    rug = mix(mix(inner, out, smooth(0.45, 0.55, diamonds) * 0.5), rgb((0.92, 0.88, 0.78), px), ring) * weave
    return mix(floor, rug, smooth(1.01, 0.99, edge))


def _shadows(boxes: list[Box], axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, floor_y: float) -> Tensor:
    """Soft shadows (H, W), factors up to 1, of the boxes: on the floor below them and on the wall behind them."""
    factor = torch.ones_like(px)
    for box in boxes:
        (x0, y0, z0), (x1, y1, z1) = box.low, box.high
        off_x = ((px - (x0 + x1) / 2).abs() - (x1 - x0) / 2).clamp(min=0)
        off_z = ((pz - (z0 + z1) / 2).abs() - (z1 - z0) / 2).clamp(min=0)
        off_y = ((py - (y0 + y1) / 2).abs() - (y1 - y0) / 2).clamp(min=0)
        above = y0 - floor_y
        blur = 0.10 + 0.6 * above
        floor = (axis == 1) & (py < 0)
        near = torch.exp(-(off_x**2 + off_z**2) / blur**2) * math.exp(-above / 0.8)
        factor = factor * torch.where(floor, 1 - box.shadow * near, torch.ones_like(near))
        near = torch.exp(-(off_x**2 + off_y**2 + off_z**2) / 0.14**2)
        factor = factor * torch.where(axis != 1, 1 - 0.7 * box.shadow * near, torch.ones_like(near))
    return factor


def _windows(
    scene: Scene, colour: Tensor, axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, half_x: float, half_z: float,
    places: tuple[float, ...], offset: Tensor, dice: random.Random,
) -> Tensor:  # fmt: skip
    """Windows with curtains on one wall, a door and a picture on the opposite one; panes shine by themselves."""
    light = LIGHTS[scene.time]
    on_wall = (axis == 2) & (pz > 0)
    far = torch.stack((px, py, torch.full_like(px, 2.0)), -1)
    clouds = smooth(0.2, 1.0, noise.octaves(far * torch.tensor([5.0, 11.0, 5.0], device=px.device), offset, 0.1, 2))
    sky = mix(rgb(light.horizon, px), rgb(light.middle, px), smooth(0.0, 0.9, py))
    sky = mix(sky, rgb(light.cloud, px), 0.7 * clouds)
    ridge = 0.06 + 0.05 * torch.sin(px * 4 + scene.seed) + 0.03 * torch.sin(px * 11 + 2)
    hills = rgb((0.26, 0.40, 0.27), px) * rgb(light.tint, px)
    land = rgb((0.38, 0.54, 0.22), px) * rgb(light.tint, px)
    view = mix(mix(land, mix(hills, rgb(light.horizon, px), 0.3), smooth(-0.09, -0.06, py)), sky,
               smooth(-0.02, 0.02, py - ridge))  # fmt: skip
    cloth = rgb(dice.choice(CLOTHS), px)
    for place in places:
        middle, half = place * half_x, 0.74 if place == 0 else 0.50
        u, v = (px - middle).abs() / half, (py - 0.15).abs() / 0.70
        frame = ((torch.maximum(u, v) < 1.12) & on_wall).float()
        glass = (torch.maximum(u, v) < 1.0) & (u > 0.055) & (v > 0.05) & on_wall
        colour = mix(
            colour, rgb((0.96, 0.95, 0.92), px) * (0.86 + 0.14 * smooth(1.12, 1.02, torch.maximum(u, v))), frame
        )
        colour = torch.where(glass, view + _PANE, colour)
        sill = ((px - middle).abs() < half * 1.2) & ((py + 0.62).abs() < 0.045) & on_wall
        colour = torch.where(sill, rgb((0.98, 0.97, 0.94), px), colour)
        if scene.seed % 3:
            aside = ((px - middle).abs() - half * 1.12) / 0.30
            folds = 0.80 + 0.22 * torch.sin((px - middle).abs() * 52)
            drape = (aside > -0.35) & (aside < 1) & (py < 1.0) & (py > -1.05) & on_wall
            colour = torch.where(drape, cloth * folds, colour)
            rod = ((px - middle).abs() < half * 1.12 + 0.36) & ((py - 1.02).abs() < 0.022) & on_wall
            colour = torch.where(rod, rgb((0.30, 0.24, 0.19), px), colour)
    opposite = (axis == 2) & (pz < 0)
    wood = rgb(dice.choice(WOODS), px)
    u = (px - 0.5 * half_x).abs()
    colour = torch.where((u < 0.53) & (py < 0.80) & opposite, rgb((0.90, 0.88, 0.84), px), colour)
    colour = torch.where((u < 0.45) & (py < 0.72) & opposite, wood, colour)
    for middle in (0.30, -0.72):
        panel = torch.maximum(u / 0.33, (py - middle).abs() / (0.30 if middle > 0 else 0.42))
        colour = torch.where((panel < 1) & opposite, wood * (0.78 + 0.16 * (panel < 0.88)), colour)
    knob = ((px - 0.5 * half_x + 0.37) ** 2 + (py + 0.25) ** 2 < 0.045**2) & opposite
    colour = torch.where(knob, rgb((0.86, 0.74, 0.40), px), colour)
    edge = torch.maximum((px + 0.3 * half_x).abs() / 0.48, (py - 0.25).abs() / 0.36)
    colour = torch.where((edge < 1) & opposite, rgb((0.24, 0.18, 0.13), px), colour)
    colour = torch.where((edge < 0.86) & opposite, rgb((0.93, 0.91, 0.86), px), colour)
    canvas = mix(
        rgb(dice.choice(CLOTHS), px), rgb(dice.choice(CLOTHS), px), smooth(0.12, 0.32, py + 0.09 * torch.sin(px * 7))
    )
    spot = smooth(0.09, 0.07, ((px + 0.2 * half_x) ** 2 + (py - 0.36) ** 2).sqrt())
    canvas = mix(canvas, rgb((0.97, 0.86, 0.55), px), spot)
    return torch.where((edge < 0.72) & opposite, canvas, colour)


def _sunlight(
    scene: Scene, axis: Tensor, px: Tensor, py: Tensor, pz: Tensor, floor_y: float, half_x: float, half_z: float,
    places: tuple[float, ...], dice: random.Random,
) -> Tensor:  # fmt: skip
    """Where the sun comes in by the windows (H, W): bright panes on the floor and on the walls, from 0 to 1."""
    slant, aside = dice.uniform(0.55, 0.95), dice.uniform(-0.5, 0.5)
    if scene.time == "night":
        return torch.zeros_like(px)
    deep = half_z - pz
    x, y = px - aside * deep, py + slant * deep
    sunny = torch.zeros_like(px)
    for place in places:
        half = 0.74 if place == 0 else 0.50
        u, v = (x - place * half_x).abs() / half, (y - 0.15).abs() / 0.70
        pane = smooth(1.03, 0.97, torch.maximum(u, v)) * smooth(0.03, 0.08, u) * smooth(0.03, 0.08, v)
        sunny = torch.maximum(sunny, pane)
    # No edge runs through the point straight below the eye, which the last row of pixels shows all along.
    sunny = sunny * smooth(0.05, 0.25, (px**2 + pz**2).sqrt())
    behind = (axis == 2) & (pz > 0)
    return torch.where(behind, torch.zeros_like(sunny), sunny) * (1.0 if scene.time == "noon" else 0.8)


def _draw_box(
    colour: Tensor, distance: Tensor, rays: Tensor, safe: Tensor, box: Box, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one axis-aligned box where it is nearer than what is there; returns colours, distances, where it is."""
    a = torch.tensor(box.low, device=safe.device) / safe
    b = torch.tensor(box.high, device=safe.device) / safe
    near, axis = torch.minimum(a, b).max(-1)
    far = torch.maximum(a, b).min(-1).values
    hit = (near < far) & (near > 0) & (near < distance)
    seen_rows, seen_columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
    if not len(seen_rows):
        return colour, distance, hit
    part = (slice(int(seen_rows[0]), int(seen_rows[-1]) + 1), slice(int(seen_columns[0]), int(seen_columns[-1]) + 1))
    faces, reach = axis[part], near[part]
    low = torch.tensor(box.low, device=safe.device)
    place = rays[part] * reach.unsqueeze(-1) - low
    shade = torch.tensor([0.86, 1.06, 0.74], device=safe.device)[faces]
    up = (place[..., 1] / (box.high[1] - box.low[1])).clamp(0, 1)
    shade = shade * (0.86 + 0.14 * torch.where(faces == 1, torch.ones_like(up), up))
    spacing = reach.clamp(min=0.1) * (math.pi / rays.shape[0])
    colour = colour.clone()
    surface = box.surface(place, faces, spacing, offset) * shade
    colour[(slice(None), *part)] = torch.where(hit[part], surface, colour[(slice(None), *part)])
    return colour, torch.where(hit, near, distance), hit


def _lamp(picture: Tensor, rays: Tensor, lamp: Tensor, ceiling_y: float, bright: bool) -> Tensor:
    """A shaded lamp on a cord, with a halo when it is switched on."""
    side = F.normalize(torch.stack((lamp[2], torch.zeros_like(lamp[0]), -lamp[0])), dim=0)
    along = F.normalize(torch.stack((lamp[0], torch.zeros_like(lamp[0]), lamp[2])), dim=0)
    flat = float((lamp[0] ** 2 + lamp[2] ** 2).sqrt())
    depth = (rays @ along).clamp(min=1e-3)
    u, v = (rays @ side) / depth * flat, rays[..., 1] / depth * flat
    ahead = (rays @ along) > 0.02
    cord = ((u.abs() < 0.012) & (v > lamp[1]) & (v < ceiling_y) & ahead).float()
    picture = mix(picture, rgb((0.25, 0.23, 0.22), rays), cord)
    level = (v - lamp[1] + 0.16) / 0.30
    half = 0.27 - 0.15 * level
    shape = smooth(1.04, 0.98, u.abs() / half.clamp(min=0.02)) * smooth(-0.02, 0.02, level) * smooth(1.02, 0.98, level)
    shape = shape * ahead
    shade = rgb((1.0, 0.93, 0.74) if bright else (0.90, 0.87, 0.80), rays)
    tone = (1 - 0.22 * (u / half.clamp(min=0.02)).clamp(-1, 1) ** 2) if bright else (0.86 + 0.12 * level)
    if bright:
        picture = (
            picture + rgb((0.34, 0.26, 0.14), rays) * torch.exp(-((u**2 + (v - lamp[1]) ** 2).sqrt() / 0.55)) * ahead
        )
    return mix(picture, (shade * tone).clamp(0, 1), shape).clamp(0, 1)
