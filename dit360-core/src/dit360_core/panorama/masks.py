"""Masks as files and pictures: white where a panorama is to be made anew."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit360_core.errors import InputError
from dit360_core.panorama.levels import eight_of
from dit360_core.panorama.opening import alpha_of, read_greys
from dit360_core.panorama.resizing import resized

_NOISE = 0.04
"""Levels near black and white, as a share of all: a mask that was saved as JPEG has no pure ones."""


_ONE_COLOUR = 40
"""Levels of 255 by which pixels of one colour may differ."""
_FEW_COLOURS = 6
"""That strokes are painted in at most; a picture has more."""


def open_mask(path: str | PathLike[str]) -> Image.Image:
    """Reads a mask, in grey: white is 255.

    path: of a JPEG, PNG, WebP, AVIF or TIFF file, of 8 or 16 bits a channel.

    Of colours the brightest channel counts. Where a mask has transparency, that is what it says: strokes are white
    where they are opaque, whatever their colour, but black ones among white ones stay black; a picture with holes is
    white in the holes.

    Raises InputError if the file is missing, damaged or no picture.
    """
    return as_mask(read_greys(Path(path)))


def as_mask(image: Image.Image) -> Image.Image:
    """A picture as a mask in grey (mode L), as :func:`open_mask` reads it.

    Raises InputError for floating-point numbers and whole ones of 32 bits (modes F and I), of which nobody knows what
    is white.
    """
    colours = np.asarray(eight_of(image, "A mask").convert("RGB"))
    alpha = alpha_of(image)
    if alpha is not None:
        said = _of_layers(colours, np.asarray(alpha))
        if said is not None:
            return Image.fromarray(said)
    return Image.fromarray(colours.max(2))


def _of_layers(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """What a picture with transparency says as a mask; None: as much as one without.

    colours: ``(H, W, 3)``.
    alpha: ``(H, W)``.
    """
    opaque = alpha >= 128
    if opaque.all():
        return None
    painted = colours[opaque]
    if not len(painted):
        return alpha
    # Where strokes were resized or have soft edges, some of their pixels have other colours.
    low, high = (np.quantile(painted, share, axis=0) for share in (0.02, 0.98))
    if (high - low).max() <= _ONE_COLOUR:
        return alpha
    brightest, darkest = painted.max(1), painted.min(1)
    sure = (brightest <= _ONE_COLOUR) | (darkest >= 255 - _ONE_COLOUR)
    if sure.mean() >= 0.95:
        black_and_white: NDArray[np.uint8] = np.round(colours.max(2) * (alpha / 255.0)).astype(np.uint8)
        return black_and_white
    _, often = np.unique(painted // 32, axis=0, return_counts=True)
    in_few_colours = np.sort(often)[-_FEW_COLOURS:].sum() >= 0.95 * len(painted)
    return alpha if in_few_colours and opaque.mean() <= 0.5 else 255 - alpha


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
