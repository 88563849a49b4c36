"""A cube around the sphere: six square pictures of 90° each, from a panorama and back.

A cube map has coordinates of its own, (x, y, z), and the faces +x, −x, +y, −y, +z, −z, in this order everywhere here.
Which row and column of a face shows which direction is from the OpenGL 4.6 core specification, table 8.19, which
Direct3D, Vulkan and WebGL share. How those coordinates lie in the world is an engine's own choice: ``axes`` here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from dit360_core.sphere.views import MARGIN, MOST_SAMPLES, at, bands, centres, drawn, extended, sample, samples_for

Axes = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
"""The directions of a cube map's x, y and z on the sphere: (right, up, ahead) of each, one of them ±1."""

_FRAMES = torch.tensor(
    [
        [[0, 0, -1], [0, -1, 0], [1, 0, 0]],
        [[0, 0, 1], [0, -1, 0], [-1, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[1, 0, 0], [0, 0, -1], [0, -1, 0]],
        [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[-1, 0, 0], [0, -1, 0], [0, 0, -1]],
    ],
    dtype=torch.float64,
)
"""Of each face, in the cube's coordinates: which way its columns go, which way its rows go, and where it is."""

_ALIKE = 1.25
"""Pixels of a face's middle along one of a panorama, up to which they are of one size."""


def face_size(height: int) -> int:
    """The side of faces, in pixels, that lose nothing of a panorama: 2H/π, and a multiple of 4.

    height: of the panorama, in pixels.

    A face is a gnomonic projection, whose scale is 1 at its middle and larger everywhere else (Snyder 1987, "Map
    Projections – A Working Manual", p. 164: 1/cos² of the distance along it, 1/cos across). So its pixels are coarsest
    in the middle, 2/n radians, and there they are to be no coarser than the panorama's π/H. GPUs compress 4×4 pixels at
    once.
    """
    return 4 * math.ceil(2 * height / math.pi / 4)


def faces_of(panorama: torch.Tensor, size: int, axes: Axes) -> torch.Tensor:
    """``(6, C, size, size)``: the faces of a panorama, in its dtype.

    panorama: ``(C, H, 2H)`` of floating-point numbers.
    size: the side of a face, in pixels. Their outer edges lie on those of the cube.
    axes: how the cube lies on the sphere.
    """
    return torch.stack([face_of(panorama, face, size, axes) for face in range(6)])


def face_of(panorama: torch.Tensor, face: int, size: int, axes: Axes) -> torch.Tensor:
    """``(C, size, size)``: one face of a panorama, as :func:`faces_of` has it.

    face: its number, 0 … 5.
    """
    samples = samples_for(2 / size * panorama.shape[-2] / math.pi)
    return drawn(panorama, _rays(face, size, samples, axes), samples)


def from_faces(faces: torch.Tensor, height: int, axes: Axes) -> torch.Tensor:
    """``(C, height, 2·height)``: the panorama of six faces, in their dtype.

    faces: ``(6, C, n, n)`` of floating-point numbers.
    height: of the panorama, in pixels.
    axes: how the cube lies on the sphere.
    """
    finer = math.pi / height / (2 / faces.shape[-1])
    # Where pixels are about as fine as in the middle of a face, one sample is nearer to what the faces were made of
    # than the mean of four, by 2 dB and more (tests/core/test_projecting.py); coarser ones are means, or would shimmer.
    # At the middle of a face's edge its pixels are half as wide.
    finer = 1.0 if finer < _ALIKE else 2 * finer
    if finer > MOST_SAMPLES:
        # Averaged before is as good as sampled more often.
        small = max(1, round(faces.shape[-1] * MOST_SAMPLES / finer))
        faces, finer = F.interpolate(faces, (small, small), mode="area"), MOST_SAMPLES
    size, samples = faces.shape[-1], samples_for(finer)
    atlas, turn = _atlas(faces), torch.tensor(axes, dtype=torch.float64)
    columns = centres(2 * height, samples)[None]
    found = []
    for top, end in bands(height, columns.numel() * samples):
        looking = at(top + centres(end - top, samples)[:, None], columns, height) @ turn.T
        seen = sample(atlas, _in_atlas(looking.reshape(-1, 3), size)).T.reshape(-1, *looking.shape[:2])
        found.append(F.avg_pool2d(seen[None], samples)[0].to(faces.dtype))
    return torch.cat(found, dim=1)


def _rays(face: int, size: int, samples: int, axes: Axes) -> Iterator[torch.Tensor]:
    """Directions on the sphere of a face's samples, in bands of rows."""
    turn = torch.tensor(axes, dtype=torch.float64)
    across = 2 * centres(size, samples) / size - 1
    for top, end in bands(size, size * samples**2):
        down = 2 * (top + centres(end - top, samples)) / size - 1
        yield F.normalize(_on_plane(face, across[None], down[:, None]) @ turn, dim=-1)


def _on_plane(face: int, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """``(…, 3)``: places of a face in the cube's coordinates.

    across, down: −1 … 1 on the face, and beyond.
    """
    along, below, middle = _FRAMES[face].unbind()
    return across[..., None] * along + down[..., None] * below + middle


def _in_atlas(looking: torch.Tensor, size: int) -> torch.Tensor:
    """``(n, 2)``: where directions lie in six faces that stand below each other with their margins, in pixels.

    looking: ``(n, 3)``, in the cube's coordinates.
    """
    face = (looking @ _FRAMES[:, 2].T).argmax(dim=-1)
    across, down, depth = ((axis[face] * looking).sum(-1) for axis in _FRAMES.unbind(1))
    column = (across / depth + 1) / 2 * size + MARGIN
    row = (down / depth + 1) / 2 * size + MARGIN
    return torch.stack([column, row + face * (size + 2 * MARGIN)], dim=-1)


def _atlas(faces: torch.Tensor) -> torch.Tensor:
    """``(C, 6·(n + 2m), n + 2m)``: the faces below each other, each with m pixels around it that its plane shows there.

    They are its neighbours', so that a panorama has no line where two meet. Those in turn know what is half a pixel
    beyond their outermost centres from their neighbours: at first it is guessed from slopes, then from what was found.
    """
    size, wide = faces.shape[-1], faces.shape[-1] + 2 * MARGIN
    places = 2 * (centres(wide, 1) - MARGIN) / size - 1
    around = torch.ones(wide, wide, dtype=torch.bool)
    around[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
    down, across = (places[index] for index in around.nonzero().unbind(-1))
    found = torch.stack([extended(face) for face in faces.float()])
    for _ in range(2):
        atlas = found.permute(1, 0, 2, 3).reshape(faces.shape[1], 6 * wide, wide)
        found = found.clone()
        for face in range(6):
            found[face][:, around] = sample(atlas, _in_atlas(_on_plane(face, across, down), size)).T
    return found.permute(1, 0, 2, 3).reshape(faces.shape[1], 6 * wide, wide)
