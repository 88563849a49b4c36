"""The levels of a picture's colours: as fractions of one in float32, and rounded to 8 or 16 bits a channel.

All work is done in strips of rows, so that a large picture is not in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit360_core.errors import InputError

Floats = NDArray[np.float32]
"""``(H, W, 3)``, coded as sRGB, 0 … 1."""

_STRIP = 2**20
"""Pixels that are worked on at once."""


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture in strips of about a megapixel, from top to bottom.

    height, width: in pixels.
    """
    rows = max(1, _STRIP // max(1, width))
    return (slice(top, min(height, top + rows)) for top in range(0, height, rows))


def eight_bits(floats: Floats) -> NDArray[np.uint8]:
    """``(H, W, C)`` rounded to 0 … 255, halves to the even level, as pictures are that the decoder makes.

    floats: ``(H, W, C)`` in 0 … 1; what is outside is cut.
    """
    levels = np.empty(floats.shape, np.uint8)
    _round_into(levels, floats, 255)
    return levels


def sixteen_bits(floats: Floats) -> NDArray[np.uint16]:
    """``(H, W, C)`` rounded to 0 … 65535, halves to the even level.

    floats: ``(H, W, C)`` in 0 … 1; what is outside is cut.
    """
    levels = np.empty(floats.shape, np.uint16)
    _round_into(levels, floats, 65_535)
    return levels


def floats_of(levels: NDArray[Any]) -> Floats:
    """``(H, W, C)`` in 0 … 1.

    levels: ``(H, W, C)`` of 8 or 16 bits.
    """
    floats = np.empty(levels.shape, np.float32)
    most = np.iinfo(levels.dtype).max
    for rows in strips(*levels.shape[:2]):
        np.divide(levels[rows], np.float32(most), out=floats[rows])
    return floats


def eight_of(image: Image.Image, what: str) -> Image.Image:
    """A picture of Pillow with 8 bits a channel: of 16 bits in grey it is rounded, where Pillow would cut at 255.

    what: it is, with which the error begins.

    Raises InputError for floating-point numbers and whole ones of 32 bits (modes F and I), of which nobody knows what
    is white.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"{what} has 8 or 16 bits a channel, but this one is of mode {image.mode}, which does not say what is "
            "white; make it one of mode L, from 0 to 255."
        )
    return image


def _round_into(levels: NDArray[Any], floats: Floats, most: int) -> None:
    for rows in strips(*floats.shape[:2]):
        strip = np.clip(floats[rows], 0, 1)
        strip *= most
        levels[rows] = np.rint(strip, out=strip)
