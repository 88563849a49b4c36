"""PNG files of 16 bits a channel, which Pillow cannot write in colour.

No library is taken for it: those that write such files either want a minute for a large picture (pure Python) or are
larger than all that the core needs to look at pictures, and none of them writes XMP. What a PNG is made of is short:
Portable Network Graphics (third edition), 5.3 (chunks), 9 (filters), 10 (zlib).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from dit360_core.panorama.containers import PNG_MARK
from dit360_core.panorama.levels import strips

_UP = 2
"""Filter: each byte minus that above it."""
_LEVEL = 6


def deep_png(levels: NDArray[np.uint16], xmp: bytes) -> bytes:
    """The bytes of a PNG file.

    levels: ``(H, W, 3)``, RGB in sRGB.
    xmp: the packet, uncompressed and before the pixels, where simple readers look for it.
    """
    height, width = levels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [PNG_MARK, _chunk(b"IHDR", head), _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)]
    pack = zlib.compressobj(_LEVEL, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    above = np.zeros(6 * width, np.uint8)
    for rows in strips(height, width):
        raw = levels[rows].astype(">u2").reshape(-1, 3 * width).view(np.uint8)
        filtered = np.empty((len(raw), 1 + 6 * width), np.uint8)
        filtered[:, 0] = _UP
        filtered[0, 1:] = raw[0] - above
        filtered[1:, 1:] = raw[1:] - raw[:-1]
        above = raw[-1]
        if packed := pack.compress(filtered.data):
            parts.append(_chunk(b"IDAT", packed))
    return b"".join([*parts, _chunk(b"IDAT", pack.flush()), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
