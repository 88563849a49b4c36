"""How many tokens a picture is, and how high one of a cube's faces, without torch."""

from __future__ import annotations

import math

PATCH = 16
"""Pixels to a token's side: 8 of the autoencoder times 2 of the patch."""


def tokens_of(width: int, height: int, padding: int = 0) -> int:
    """Tokens of a transformer call for a picture of ``width × height`` pixels, multiples of 16.

    padding: columns of tokens that are wrapped around on either side.
    """
    return tokens_in(height // PATCH, width // PATCH, padding)


def tokens_in(rows: int, columns: int, padding: int) -> int:
    """The same of a grid of tokens."""
    return rows * (columns + 2 * padding)


def panorama_height(size: int) -> int:
    """The height of a panorama, in pixels, that is as fine as faces are in their middle: πn/2, rounded up.

    size: the side of a face, in pixels.
    """
    return math.ceil(math.pi * size / 2)
