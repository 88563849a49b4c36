"""Panoramas of another size, whose left and right edge are one place."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dit360_core.panorama.levels import Floats
from dit360_core.panorama.light import to_light, to_srgb_code


def resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """A panorama at another size.

    image: of any mode that Pillow resizes, twice as wide as high.
    size: (width, height) in pixels.
    how: the filter.
    """
    if image.size == size:
        return image
    # With some columns of the other side on either side, or a filter would see an edge there.
    margin = max(1, image.width // 16)
    wide = Image.new(image.mode, (image.width + 2 * margin, image.height))
    for left in (margin, margin - image.width, margin + image.width):
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


def _by_planes(floats: Floats, size: tuple[int, int]) -> Floats:
    planes = [resized(Image.fromarray(plane), size, Image.Resampling.LANCZOS) for plane in np.moveaxis(floats, -1, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
