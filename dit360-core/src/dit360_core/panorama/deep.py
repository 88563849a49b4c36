"""All 16 bits of a picture that Pillow opens with 8: it is decoded twice, once for each half of the numbers.

Pillow decodes RGB of 16 bits a channel, and keeps the upper 8. Told that the bytes lie the other way round, it keeps
the lower 8; so no second decoder is needed for files of strangers, and every compression, tile and interlace is known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER = {"L": "B", "B": "L"}
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
_WHITE_IS_ZERO, _SEPARATE = 0, 2


class Separate(Exception):
    """The planes of its colours lie one after the other, of which Pillow mixes up those of 16 bits."""


def has_16_bits(file: ImageFile) -> bool:
    """Whether a picture, its header read and not yet its pixels, has 16 bits a channel."""
    modes = [_mode(tile.args) for tile in file.tile]
    return bool(modes) and all(";16" in mode for mode in modes)


def white_is_zero(file: ImageFile) -> bool:
    """Whether a picture is a TIFF of 16 bits in grey in which 0 is white, which Pillow leaves as it is (not 8 bits)."""
    return file.mode.startswith("I;16") and getattr(file, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def is_deep(file: ImageFile) -> bool:
    """Whether a picture, its header read, has 16 bits a channel in grey or RGB, which can be had. Raises Separate."""
    if not has_16_bits(file):
        if _separate(file):
            raise Separate
        return False
    # Colours that are multiplied by their opacity are divided while they are decoded, each half by itself.
    return not _mode(file.tile[0].args).startswith("RGBa") and file.mode in ("RGB", "RGBA", "I;16", "I;16B")


def decoded(file: ImageFile, again: Callable[[], ImageFile]) -> NDArray[np.uint16]:
    """``(H, W, C)``, all bits of a picture of which is_deep is true: grey, with opacity (2), RGB, with opacity (4).

    file: its header read, and not yet its pixels. It is loaded, with the upper bits.
    again: opens it once more.
    """
    modes = {_mode(tile.args) for tile in file.tile}
    file.load()
    if file.mode.startswith("I"):
        levels = np.asarray(file).astype(np.uint16)[..., None]
        return 65_535 - levels if white_is_zero(file) else levels
    if modes == {"LA;16B"}:
        # Both bytes of grey and of opacity, in four channels.
        halves = _as(again(), lambda _: "RGBA")
        return _whole(halves[..., 0::2], halves[..., 1::2])
    return _whole(np.asarray(file), _as(again(), _swapped))


def _separate(file: ImageFile) -> bool:
    tags = getattr(file, "tag_v2", {})
    return max(tags.get(_BITS, (8,)), default=8) > 8 and tags.get(_PLANAR) == _SEPARATE


def _as(file: ImageFile, mode: Callable[[str], str]) -> NDArray[np.uint8]:
    """A file's pixels, decoded as if they lay in another way than its header says."""
    tiles = []
    for tile in file.tile:
        found = tile.args
        tiles.append(tile._replace(args=(mode(found[0]), *found[1:]) if isinstance(found, tuple) else mode(str(found))))
    file.tile = tiles
    file.load()
    return np.asarray(file)


def _mode(arguments: object) -> str:
    """How pixels lie: a decoder's first argument, or its only one."""
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _swapped(mode: str) -> str:
    order = _NATIVE if mode[-1] == "N" else mode[-1]
    return mode[:-1] + _OTHER[order]


def _whole(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    levels = upper.astype(np.uint16)
    levels <<= 8
    levels |= lower
    return levels
