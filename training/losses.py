"""Losses beside the plain one: DiT360's, turned about the vertical axis (yaw) and on the faces of a cube; and one of
where tokens meet.

All are given the error of a predicted velocity in latents. The published yaw loss turns the prediction and the target
by the same angle and compares them again. A turn by whole columns only reorders the squares that are summed, so that
form is the plain loss once more (and by other angles a slightly blurred plain loss). What it is named for, that the
model treats all yaws alike, needs a second evaluation of the model on the turned input: `equivariance`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

YAWS = (60.0, 180.0, 300.0)
"""Angles of the published yaw loss, in degrees."""


def turn(latents: Tensor, degrees: float) -> Tensor:
    """Latents (B, C, h, w) turned to the left by any angle, columns interpolated linearly around the circle."""
    shift = degrees / 360 * latents.shape[-1]
    whole, part = math.floor(shift), shift - math.floor(shift)
    near = latents.roll(-whole, -1)
    return near if part == 0 else torch.lerp(near, near.roll(-1, -1), part)


def published_yaw(error: Tensor, degrees: float) -> Tensor:
    """Mean squared error (B,) after turning prediction and target, which is turning the error (B, C, h, w)."""
    return (turn(error, degrees) ** 2).mean((1, 2, 3))


def equivariance(here: Tensor, turned_back: Tensor) -> Tensor:
    """Mean squared difference (B,) of two predictions of one velocity, the second made at another yaw."""
    return ((here - turned_back) ** 2).mean((1, 2, 3))


@lru_cache(maxsize=8)
def cube_grid(height: int, width: int, device: str = "cpu") -> tuple[Tensor, int]:
    """Where the six faces of a cube see an equirectangular picture: a sampling grid (1, 6·n, n, 2) and its margin.

    n is half the height. The grid is for a picture with `margin` wrapped columns on either side, so that faces across
    the meridian are interpolated correctly.
    """
    n, margin = height // 2, 2
    line = (torch.arange(n, device=device) + 0.5) / n * 2 - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    one = torch.ones_like(down)
    faces = (
        (across, -down, one), (one, -down, -across), (-across, -down, -one), (-one, -down, across),
        (across, one, down), (across, -one, -down),
    )  # fmt: skip
    rays = F.normalize(torch.stack([torch.stack(face, dim=-1) for face in faces]), dim=-1)
    azimuth = torch.atan2(rays[..., 0], rays[..., 2])
    elevation = torch.asin(rays[..., 1].clamp(-1, 1))
    column = (azimuth / (2 * math.pi) + 0.5) * width + margin
    row = (0.5 - elevation / math.pi) * height
    grid = torch.stack((2 * column / (width + 2 * margin) - 1, 2 * row / height - 1), dim=-1)
    return grid.reshape(1, 6 * n, n, 2), margin


def cube_faces(latents: Tensor) -> Tensor:
    """The six faces (B, C, 6, n, n) of equirectangular latents (B, C, h, w), n = h / 2, by bilinear interpolation."""
    _, _, height, width = latents.shape
    grid, margin = cube_grid(height, width, str(latents.device))
    wrapped = torch.cat((latents[..., -margin:], latents, latents[..., :margin]), dim=-1)
    places = grid.expand(len(latents), -1, -1, -1).to(latents.dtype)
    faces = F.grid_sample(wrapped, places, mode="bilinear", padding_mode="border", align_corners=False)
    return faces.unflatten(2, (6, -1))


def cube(error: Tensor) -> Tensor:
    """Mean squared error (B,) on the faces of a cube, which is that of the error (B, C, h, w) seen there."""
    return (cube_faces(error) ** 2).mean((1, 2, 3, 4))


def joints(error: Tensor, *, around: bool = True) -> Tensor:
    """Mean squared step (B,) of the error (B, C, h, w) where two tokens of 2x2 latents meet.

    A token's latents come out of one product, and those of its neighbours out of others. What they err by may differ by
    a step there, which is seen as a grid, and most of all at the meridian, where a neighbour is a copy.

    around: the last column meets the first.
    """
    before, behind = error[..., 1::2], error[..., 0::2].roll(-1, -1)
    steps = (before - behind)[..., : None if around else -1]
    down = error[..., 1:-1:2, :] - error[..., 2::2, :]
    return (steps**2).mean((1, 2, 3)) + (down**2).mean((1, 2, 3))
