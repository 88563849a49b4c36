"""A little planet: the sphere from above in a stereographic projection, the ground in the middle, the sky around it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from dit360_core.errors import InputError, setting
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.views import bands, centres, drawn, rotation, samples_for


def planet_size(height: int, fov: float) -> int:
    """The side of a little planet, in pixels, whose pixels are nowhere coarser than a panorama's: 4·tan(fov/4)·H/π.

    height: of the panorama, in pixels.
    fov: degrees over the picture's side.

    The scale of a stereographic projection is 1 in its middle and larger everywhere else (Snyder 1987, "Map Projections
    – A Working Manual", p. 157: 2/(1 + cos c) at the distance c).
    """
    return max(1, math.ceil(2 * edge(fov) * height / math.pi))


def little_planet(panorama: torch.Tensor, size: int, fov: float, yaw: float = 0.0) -> torch.Tensor:
    """``(C, size, size)``: a panorama from above, in its dtype.

    panorama: ``(C, H, 2H)`` of floating-point numbers.
    size: the side of the picture, in pixels.
    fov: degrees over it, above 0 and below 360; the horizon is a circle of tan(45°)/tan(fov/4) of the picture's width.
    yaw: degrees; what lies there is at the top, and what is to the right of it on the right.

    Raises InputError for a field of view that is none.
    """
    samples = samples_for(2 * edge(fov) / size * panorama.shape[-2] / math.pi)
    return drawn(panorama, _rays(size, fov, yaw, samples), samples)


def edge(fov: float) -> float:
    """From the middle of the projection to its edge, in radii of the sphere: 2·tan(fov/4).

    fov: degrees from edge to edge.

    Raises InputError unless it is above 0 and below 360.
    """
    if not 0 < fov < 360:
        raise InputError(
            f"{setting('fov', f'{fov:g}')} is none of a little planet, which shows above 0 and below 360 degrees over "
            "its side; 270 is usual."
        )
    return 2 * math.tan(math.radians(fov) / 4)


def _rays(size: int, fov: float, yaw: float, samples: int) -> Iterator[torch.Tensor]:
    """Directions of the picture's samples, in bands of rows."""
    below = rotation(Camera(width=1, height=1, fov=90, yaw=yaw, pitch=-90)).T
    across = (2 * centres(size, samples) / size - 1) * edge(fov)
    for top, end in bands(size, size * samples**2):
        down = (2 * (top + centres(end - top, samples)) / size - 1)[:, None] * edge(fov)
        far = across**2 + down**2
        # Snyder, p. 158, with the point of contact in the middle.
        axes = (4 * across + 0 * down, -4 * down + 0 * across, 4 - far)
        yield torch.stack(axes, dim=-1) / (4 + far)[..., None] @ below
