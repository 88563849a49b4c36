"""Numbers of sRGB and the light that they stand for: the transfer function of IEC 61966-2-1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_KNEE = 0.04045
_SLOPE, _BEND, _POWER = 12.92, 0.055, 2.4


def to_light(coded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light in 0 … 1.

    coded: of sRGB, in 0 … 1.
    """
    curved = ((coded + _BEND) / (1 + _BEND)) ** _POWER
    return np.where(coded <= _KNEE, coded / _SLOPE, curved).astype(np.float32)


def to_srgb(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of :func:`to_light`.

    light: in 0 … 1.
    """
    curved = (1 + _BEND) * light ** (1 / _POWER) - _BEND
    return np.where(light <= _KNEE / _SLOPE, light * _SLOPE, curved).astype(np.float32)
