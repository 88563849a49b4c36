"""Pictures of Pillow in other projections. Needs torch, which the rest of this room does without."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dit360_core.panorama.cubemaps import LARGEST, Axes
from dit360_core.panorama.opening import OPENED
from dit360_core.sphere import cube, planet, views
from dit360_core.sphere.camera import Camera


def face_size(height: int) -> int:
    """The side of faces, in pixels, that lose nothing of a panorama, as far as graphics devices hold them.

    height: of the panorama, in pixels.
    """
    return min(LARGEST, cube.face_size(height))


def planet_size(height: int, fov: float) -> int:
    """The side of a little planet, in pixels, that loses nothing of a panorama, as far as graphics devices hold it.

    height: of the panorama, in pixels.
    fov: degrees over it.
    """
    return min(LARGEST, math.isqrt(OPENED), planet.planet_size(height, fov))


def faces(panorama: Image.Image, size: int, axes: Axes) -> list[Image.Image]:
    """The six faces of a cube map: +x, −x, +y, −y, +z, −z.

    panorama: RGB, twice as wide as high.
    size: the side of a face, in pixels.
    axes: how the cube map lies on the sphere.
    """
    planes = _planes(panorama)
    # One after the other, since large ones take gigabytes before they are rounded.
    return [_image(cube.face_of(planes, face, size, axes)) for face in range(6)]


def from_faces(six: Sequence[Image.Image], height: int, axes: Axes) -> Image.Image:
    """A panorama, from the six faces of a cube map.

    six: RGB, square and of one size: +x, −x, +y, −y, +z, −z.
    height: of the panorama, in pixels.
    axes: how the cube map lies on the sphere.
    """
    return _image(cube.from_faces(torch.stack([_planes(face) for face in six]), height, axes))


def view(panorama: Image.Image, camera: Camera) -> Image.Image:
    """What a camera sees.

    panorama: RGB, twice as wide as high.
    """
    return _image(views.view(_planes(panorama), camera))


def little_planet(panorama: Image.Image, size: int, fov: float, yaw: float) -> Image.Image:
    """The panorama from above.

    panorama: RGB, twice as wide as high.
    size: the side of the picture, in pixels.
    fov: degrees over it.
    yaw: degrees; what lies there is at the top.
    """
    return _image(planet.little_planet(_planes(panorama), size, fov, yaw))


def _planes(image: Image.Image) -> torch.Tensor:
    """``(3, H, W)`` float32 in 0 … 1."""
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def _image(planes: torch.Tensor) -> Image.Image:
    return Image.fromarray((planes.clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy())
