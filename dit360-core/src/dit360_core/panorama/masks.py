"""Masks as files and pictures: white where a panorama is to be made anew."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit360_core.errors import InputError
from dit360_core.panorama.opening import alpha_of, read_greys
from dit360_core.panorama.resizing import resized

_NOISE = 0.04
"""Levels near black and white, as a share of all: a mask that was saved as JPEG has no pure ones."""


def open_mask(path: str | PathLike[str]) -> Image.Image:
    """Reads a mask, in grey: white is 255.

    path: of a JPEG, PNG or WebP file, of 8 or 16 bits a channel.

    Of colours the brightest channel counts. Where a mask has transparency, that is what it says: strokes of one colour
    are white where they are opaque, and a picture with holes is white in the holes.

    Raises InputError if the file is missing, damaged or no picture.
    """
    return as_mask(read_greys(Path(path)))


def as_mask(image: Image.Image) -> Image.Image:
    """A picture of any mode as a mask in grey (mode L), as :func:`open_mask` reads it."""
    alpha = alpha_of(image)
    if alpha is not None:
        colours, opaque = np.asarray(image.convert("RGB")), np.asarray(alpha) > 0
        painted = colours[opaque]
        of_one_colour = not len(painted) or bool((painted == painted[0]).all())
        return alpha if of_one_colour else Image.fromarray(255 - np.asarray(alpha))
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    return Image.fromarray(np.asarray(image.convert("RGB")).max(2))


def levels_of(mask: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """``(H, W)`` in 0 … 1: a mask at the size of a panorama, its longitude wrapped.

    mask: in grey.
    size: (width, height) in pixels, 2:1.

    Raises InputError if the mask is not 2:1.
    """
    check_shape(mask, size)
    return _without_noise(resized(mask, size, Image.Resampling.BILINEAR))


def evenly(mask: Image.Image) -> float | None:
    """The level in 0 … 1 that all of a mask in grey has; None: it has several."""
    lowest, highest = (Image.new("L", (1, 1), level) for level in mask.getextrema())
    level = float(_without_noise(lowest)[0, 0])
    return level if level == float(_without_noise(highest)[0, 0]) else None


def check_shape(mask: Image.Image, size: tuple[int, int]) -> None:
    """Raises InputError if a mask is not 2:1.

    size: (width, height) of the panorama in pixels, for the error.
    """
    if mask.width != 2 * mask.height:
        raise InputError(
            f"The mask has {mask.width}×{mask.height} pixels, and a panorama is twice as wide as high; paint it over "
            f"the panorama itself, or resize it to {size[0]}×{size[1]}."
        )


def _without_noise(mask: Image.Image) -> NDArray[np.float32]:
    levels = np.asarray(mask, dtype=np.float32) / 255
    clean: NDArray[np.float32] = ((levels - _NOISE) / (1 - 2 * _NOISE)).clip(0, 1)
    return clean
