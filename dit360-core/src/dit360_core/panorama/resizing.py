"""Panoramas of another size, whose left and right edge are one place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from dit360_core.panorama.levels import Floats
from dit360_core.panorama.light import to_light, to_srgb_code

_REACH = 3
"""Pixels of the coarser picture to which Lanczos' filter reaches, and no other further."""
_ROUNDS = 8
"""Of back-projection, at most."""
_MISSING = 0.25 / 255
"""Root mean square of what is missing at which another round is not worth its time: 8 bits do not show it."""


def resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """A panorama at another size.

    image: of any mode that Pillow resizes, twice as wide as high.
    size: (width, height) in pixels.
    how: the filter.
    """
    if image.size == size:
        return image
    # With some columns of the other side on either side, or a filter would see an edge there.
    margin = max(image.width // 16, math.ceil(_REACH * max(1.0, image.width / size[0])))
    wide = Image.new(image.mode, (image.width + 2 * margin, image.height))
    for left in range(margin % image.width - image.width, wide.width, image.width):
        wide.paste(image, (left, 0))
    return wide.resize(size, how, box=(margin, 0, margin + image.width, image.height))


def enlarged(floats: Floats, size: tuple[int, int]) -> Floats:
    """A panorama at another size, by Lanczos' filter in linear light, in which mixing is what a lens does.

    floats: ``(H, 2H, 3)``, coded as sRGB, 0 … 1.
    size: (width, height) in pixels.
    """
    # The filter goes beyond what there is, beside edges, which is cut.
    return to_srgb_code(_by_planes(to_light(floats), size))


def resampled(floats: Floats, size: tuple[int, int]) -> Floats:
    """A panorama at another size as :func:`resized` does it, by Lanczos' filter, without rounding.

    floats: ``(H, 2H, 3)``, 0 … 1.
    size: (width, height) in pixels.
    """
    return _by_planes(floats, size).clip(0, 1)


def faithful_to(
    larger: Floats, smaller: Floats, out: Floats | None = None, advance: Callable[[int], None] = lambda count: None
) -> Floats:
    """A larger panorama with what a smaller one of it shows: reduced to that size, it is the smaller one again.

    Finer detail than the smaller one's pixels hold is the larger one's own. Iterative back-projection (Irani and Peleg,
    "Improving resolution by image registration", 1991), by Lanczos' filter both ways. What would lie outside of 0 … 1
    is cut, and differs by that.

    larger, smaller: ``(H, 2H, 3)``, coded as sRGB, 0 … 1. Not in linear light, where the filter's overshoot beside
    something bright would be seen in what is dark.
    out: where the result goes, which may be ``larger``; None: into a new array.
    advance: called with the bytes that are done, :func:`faithful_bytes` at most in all; what it raises ends it.
    """
    high, wide = smaller.shape[:2]
    small, large = (wide, high), (larger.shape[1], larger.shape[0])
    kept = np.empty_like(larger) if out is None else out
    for channel in range(larger.shape[-1]):  # by one, since a large picture's numbers take gigabytes
        plane, wanted = np.array(larger[..., channel]), smaller[..., channel]
        for _ in range(_ROUNDS):
            missing = wanted - _plane(plane, small)
            if float(np.square(missing).mean()) < _MISSING**2:
                break
            plane += _plane(missing, large)
            advance(plane.nbytes)
        np.clip(plane, 0, 1, out=kept[..., channel])
    return kept


def faithful_bytes(larger: Floats) -> int:
    """What :func:`faithful_to` goes through at most, in bytes."""
    return _ROUNDS * larger.nbytes


def _by_planes(floats: Floats, size: tuple[int, int]) -> Floats:
    return np.stack([_plane(plane, size) for plane in np.moveaxis(floats, -1, 0)], axis=-1)


def _plane(plane: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(resized(Image.fromarray(plane), size, Image.Resampling.LANCZOS))
