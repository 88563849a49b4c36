"""The furniture of a room: boxes of wood, cloth, paint and books, the named piece and what goes with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training import noise
from training.scenes import Scene
from training.shading import RGB, mix, rgb, smooth

WOODS: tuple[RGB, ...] = ((0.52, 0.34, 0.20), (0.66, 0.46, 0.28), (0.40, 0.26, 0.18))
CLOTHS: tuple[RGB, ...] = ((0.70, 0.24, 0.22), (0.22, 0.36, 0.62), (0.30, 0.52, 0.36), (0.86, 0.84, 0.80),
                           (0.85, 0.62, 0.28))  # fmt: skip
_BOOKS: tuple[RGB, ...] = ((0.72, 0.25, 0.20), (0.20, 0.36, 0.60), (0.84, 0.72, 0.38), (0.26, 0.48, 0.32),
                           (0.88, 0.86, 0.80), (0.40, 0.24, 0.40))  # fmt: skip
_WHITE: RGB = (0.93, 0.92, 0.90)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box. low, high: corners in metres, the camera at the origin. shadow: its depth, 0 to 1."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    tone: RGB
    make: str = "paint"
    shadow: float = 0.30

    def surface(self, place: Tensor, axis: Tensor, spacing: Tensor, offset: Tensor) -> Tensor:
        """Colours (3, H, W) at `place` (H, W, 3), metres from the low corner, on faces across `axis` (H, W)."""
        colour = rgb(self.tone, spacing)
        if self.make == "wood":
            stretch = torch.tensor([14.0, 60.0, 14.0], device=place.device)
            return colour * (1 + 0.09 * noise.grain(place * stretch, offset, spacing * 40))
        if self.make == "cloth":
            weave = noise.grain(place * 34, offset, spacing * 34)
            folds = noise.sample(place * 12, offset + 5)
            return colour * (1 + 0.06 * weave + 0.07 * folds)
        if self.make == "leaves":
            clumps = noise.grain(place * 30, offset + 9, spacing * 30)
            return colour * (1 + 0.45 * clumps).clamp(0.3, 1.8)
        if self.make == "books":
            return self._books(place, axis, colour)
        return colour * torch.ones_like(spacing)

    def _books(self, place: Tensor, axis: Tensor, wood: Tensor) -> Tensor:
        """Shelves of books of uneven height and width on the faces across x, plain wood on the others."""
        shelf = place[..., 1] / 0.40
        level = shelf - shelf.floor()
        start = place[..., 2] + 0.013 * torch.sin(shelf.floor() * 5)
        wide = start / 0.115
        number = (wide.floor() + 31 * shelf.floor()).long() % 97
        chance = torch.rand(97, 2, generator=torch.Generator().manual_seed(5)).to(place.device)
        tall = 0.60 + 0.28 * chance[number, 0]
        tones = torch.tensor(_BOOKS, device=place.device)
        spine = tones[(chance[number, 1] * len(_BOOKS)).long()].movedim(-1, 0)
        across = (wide - wide.floor() - 0.5).abs()
        spine = spine * (1 - 0.45 * smooth(0.36, 0.5, across))
        band = smooth(0.03, 0.015, (level - 0.12 - 0.5 * tall).abs())
        spine = mix(spine, rgb((0.90, 0.78, 0.46), level), 0.6 * band)
        inside = (level > 0.10) & (level < 0.10 + tall) & (chance[number, 1] < 0.93)
        back = wood * 0.34 * torch.ones_like(level)
        front = torch.where(inside, spine, back)
        board = (level < 0.10) | (place[..., 2] < 0.06) | (place[..., 2] > self.high[2] - self.low[2] - 0.06)
        front = torch.where(board, wood * torch.ones_like(level), front)
        return torch.where(axis == 0, front, wood * torch.ones_like(level))


Part = tuple[float, float, float, float, float, float, RGB, str]
"""From the wall, up, along the wall (two metres each), colour, make."""


def _bed(wood: RGB, cloth: RGB, pillow: RGB) -> list[Part]:
    return [
        (0.0, 2.0, 0.0, 0.30, -0.90, 0.90, wood, "wood"),
        (0.05, 1.97, 0.30, 0.46, -0.87, 0.87, _WHITE, "cloth"),
        (0.60, 2.02, 0.36, 0.54, -0.93, 0.93, cloth, "cloth"),
        (0.62, 0.80, 0.54, 0.57, -0.93, 0.93, _WHITE, "cloth"),
        (0.10, 0.50, 0.46, 0.62, -0.76, -0.06, _WHITE, "cloth"),
        (0.10, 0.50, 0.46, 0.62, 0.06, 0.76, _WHITE, "cloth"),
        (0.0, 0.08, 0.0, 1.05, -0.97, 0.97, wood, "wood"),
        # A bedside table and its lamp.
        (0.0, 0.42, 0.0, 0.50, 1.08, 1.50, wood, "wood"),
        (0.15, 0.25, 0.50, 0.78, 1.24, 1.34, pillow, "paint"),
        (0.06, 0.34, 0.78, 1.0, 1.15, 1.43, (0.96, 0.90, 0.74), "paint"),
    ]


def _table(wood: RGB, cloth: RGB, pillow: RGB) -> list[Part]:
    parts: list[Part] = [(0.40, 1.45, 0.70, 0.77, -0.90, 0.90, wood, "wood")]
    parts += [(x, x + 0.09, 0.0, 0.70, z, z + 0.09, wood, "wood") for x in (0.45, 1.31) for z in (-0.85, 0.76)]
    # A vase with a plant.
    parts.append((0.82, 0.98, 0.77, 1.02, -0.08, 0.08, cloth, "paint"))
    parts.append((0.74, 1.06, 1.02, 1.28, -0.16, 0.16, (0.24, 0.46, 0.20), "leaves"))
    for z in (-0.42, 0.42):
        parts.append((1.42, 1.80, 0.42, 0.47, z - 0.20, z + 0.20, wood, "wood"))
        parts.append((1.77, 1.82, 0.47, 0.95, z - 0.20, z + 0.20, wood, "wood"))
        parts += [
            (x, x + 0.05, 0.0, 0.42, y, y + 0.05, wood, "wood") for x in (1.44, 1.76) for y in (z - 0.2, z + 0.15)
        ]
    return parts


def _sofa(wood: RGB, cloth: RGB, pillow: RGB) -> list[Part]:
    parts: list[Part] = [
        (0.1, 1.08, 0.08, 0.30, -1.15, 1.15, cloth, "cloth"),
        (0.1, 0.42, 0.30, 0.98, -1.15, 1.15, cloth, "cloth"),
        (0.1, 1.08, 0.08, 0.66, -1.32, -1.08, cloth, "cloth"),
        (0.1, 1.08, 0.08, 0.66, 1.08, 1.32, cloth, "cloth"),
        (0.40, 1.10, 0.30, 0.50, -1.07, -0.01, cloth, "cloth"),
        (0.40, 1.10, 0.30, 0.50, 0.01, 1.07, cloth, "cloth"),
        (0.42, 0.60, 0.50, 0.88, -1.02, -0.60, pillow, "cloth"),
        (0.42, 0.60, 0.50, 0.88, 0.60, 1.02, pillow, "cloth"),
        # A low table in front of it.
        (1.50, 1.95, 0.30, 0.36, -0.50, 0.50, wood, "wood"),
    ]
    parts += [(x, x + 0.05, 0.0, 0.30, z, z + 0.05, wood, "wood") for x in (1.53, 1.87) for z in (-0.46, 0.41)]
    return parts


def _bookshelf(wood: RGB, cloth: RGB, pillow: RGB) -> list[Part]:
    """Books, and an armchair in front of them."""
    return [
        (0.0, 0.34, 0.0, 2.10, -1.25, 1.25, wood, "books"),
        (0.9, 1.6, 0.16, 0.44, -0.40, 0.40, cloth, "cloth"),
        (0.9, 1.08, 0.44, 0.95, -0.40, 0.40, cloth, "cloth"),
    ]


_PIECES: dict[str, Callable[[RGB, RGB, RGB], list[Part]]] = {
    "bed": _bed, "table": _table, "sofa": _sofa, "bookshelf": _bookshelf,
}  # fmt: skip
"""A piece of furniture of this wood, cloth and pillows."""


def furnish(scene: Scene, floor_y: float, half_x: float, half_z: float, dice: random.Random) -> list[Box]:
    """The named piece of furniture against the wall at +x or at -x, and a plant or a cupboard at the other one."""
    side = dice.choice((-1, 1))
    wood, cloth, pillow = dice.choice(WOODS), dice.choice(CLOTHS), dice.choice(CLOTHS)
    parts = _PIECES[scene.furniture](wood, cloth, pillow)
    boxes = [_against(side, half_x, floor_y, part) for part in parts]
    other = dice.choice(("plant", "cupboard", "none"))
    z = dice.choice((-1, 1)) * (half_z - 0.55)
    if other == "plant":
        pot, leaf = dice.choice(((0.70, 0.42, 0.30), (0.86, 0.84, 0.80))), (0.20, 0.42, 0.18)
        plant: list[Part] = [(0.15, 0.55, 0.0, 0.36, z - 0.2, z + 0.2, pot, "paint"),
                             (0.32, 0.38, 0.36, 0.75, z - 0.03, z + 0.03, (0.34, 0.26, 0.16), "wood"),
                             (0.05, 0.65, 0.62, 1.15, z - 0.32, z + 0.32, leaf, "leaves"),
                             (0.16, 0.54, 1.15, 1.42, z - 0.2, z + 0.2, leaf, "leaves")]  # fmt: skip
        boxes += [_against(-side, half_x, floor_y, part) for part in plant]
    elif other == "cupboard":
        tone = dice.choice(WOODS)
        cupboard: list[Part] = [(0.0, 0.45, 0.05, 0.85, -0.75, 0.75, tone, "wood"),
                                (0.0, 0.48, 0.85, 0.90, -0.78, 0.78, tone, "wood"),
                                (0.45, 0.465, 0.12, 0.80, -0.71, -0.02, tone, "wood"),
                                (0.45, 0.465, 0.12, 0.80, 0.02, 0.71, tone, "wood"),
                                (0.15, 0.29, 0.90, 1.16, 0.35, 0.49, dice.choice(CLOTHS), "paint")]  # fmt: skip
        boxes += [_against(-side, half_x, floor_y, part) for part in cupboard]
    return boxes


def _against(side: int, half_x: float, floor_y: float, part: Part) -> Box:
    x0, x1, y0, y1, z0, z1, tone, make = part
    a, b = sorted((side * (half_x - x0), side * (half_x - x1)))
    return Box((a, floor_y + y0, z0), (b, floor_y + y1, z1), tone, make)
