"""TIFF files of 16 bits a channel, which Pillow can read (:mod:`dit360_core.panorama.deep`) and not write."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from dit360_core.panorama.metadata import creator_tool

_XMP = 700
"""Adobe's tag, XMP specification part 3, 1.1.1 (TIFF)."""
_BYTE = 1


def deep_tiff(levels: NDArray[np.uint16], xmp: bytes) -> bytes:
    """The bytes of a TIFF file, packed by deflate with horizontal differences, which every reader knows.

    levels: ``(H, W, 3)``, RGB in sRGB.
    xmp: the packet.
    """
    import tifffile  # an extra, see formats.py

    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, levels, photometric="rgb", compression="zlib", predictor=True, metadata=None, software=creator_tool(),
        extratags=[(_XMP, _BYTE, len(xmp), xmp, True)],
    )  # fmt: skip
    return buffer.getvalue()
