"""From colours as sRGB codes them to linear light and back, and highlights beyond white for image-based lighting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KNEE = 0.5
"""Luminance up to which :func:`expand_highlights` changes nothing: a grey of level 188 of 255."""
PEAK = 16.0
"""Linear light that white becomes: four stops."""
_LUMINANCE = np.array([[0.2126], [0.7152], [0.0722]], np.float32)
"""Of the primaries of sRGB, IEC 61966-2-1."""


def to_light(coded: NDArray[Any]) -> NDArray[np.float32]:
    """Linear light, 0 … 1, of the same shape: the inverse transfer function of IEC 61966-2-1 (sRGB).

    coded: as sRGB codes it, 0 … 1; what is outside is cut.
    """
    v = np.clip(np.asarray(coded, np.float32), 0, 1)
    return np.where(v <= 0.04045, v / np.float32(12.92), ((v + np.float32(0.055)) / np.float32(1.055)) ** 2.4).astype(
        np.float32, copy=False
    )


def to_srgb_code(light: NDArray[Any]) -> NDArray[np.float32]:
    """As sRGB codes it, 0 … 1, of the same shape: the transfer function of IEC 61966-2-1.

    light: linear, 0 … 1; what is outside is cut.
    """
    v = np.clip(np.asarray(light, np.float32), 0, 1)
    # So written that white is 1 to the last bit.
    coded = np.where(v <= 0.0031308, v * np.float32(12.92), np.float32(1.055) * (v ** (1 / 2.4) - 1) + 1)
    return coded.astype(np.float32, copy=False)


def expand_highlights(light: NDArray[Any], knee: float = KNEE, peak: float = PEAK) -> NDArray[np.float32]:
    """Linear light whose highlights are made as bright as they might have been: an invention, for lighting scenes.

    light: ``(…, 3)``, linear, 0 … 1.
    knee: luminance, above 0 and below 1, up to which nothing changes.
    peak: luminance, above 1, that white becomes.

    The inverse of :func:`compress_highlights`, on the luminance Y; all three channels are multiplied by one factor, so
    that hues stay and a red coat does not begin to shine. With u = (Y − knee) / (1 − knee) and w = (peak − knee) /
    (1 − knee), Y becomes knee + (1 − knee) · t, where t = 2u / (1 − u + √((1 − u)² + 4u/w²)) is the positive root of
    the operator's equation t(1 + t/w²) / (1 + t) = u.
    """
    light = np.asarray(light, np.float32)
    luminance = light @ _LUMINANCE
    u = np.clip((luminance - knee) / (1 - knee), 0, 1)
    w = (peak - knee) / (1 - knee)
    t = 2 * u / (1 - u + np.sqrt((1 - u) ** 2 + 4 * u / w**2))
    return _scaled(light, luminance, knee, t)


def compress_highlights(light: NDArray[Any], knee: float = KNEE, peak: float = PEAK) -> NDArray[np.float32]:
    """Linear light, 0 … 1, of one that reaches up to ``peak``: the curve that :func:`expand_highlights` undoes.

    light: ``(…, 3)``, linear, 0 … peak.
    knee, peak: as they were for that.

    Reinhard's operator with a white point (Reinhard, Stark, Shirley, Ferwerda, "Photographic Tone Reproduction for
    Digital Images", SIGGRAPH 2002, equation 4), t(1 + t/w²) / (1 + t), between the knee and the peak, on the luminance.
    Its slope is 1 at the knee, so that the curve has no corner there.
    """
    light = np.asarray(light, np.float32)
    luminance = light @ _LUMINANCE
    t = np.clip((luminance - knee) / (1 - knee), 0, None)
    w = (peak - knee) / (1 - knee)
    return _scaled(light, luminance, knee, t * (1 + t / w**2) / (1 + t))


def _scaled(
    light: NDArray[np.float32], luminance: NDArray[np.float32], knee: float, beyond: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The light, its luminance now knee + (1 − knee) · beyond where it was above the knee."""
    high = luminance > knee
    factor = np.where(high, (knee + (1 - knee) * beyond) / np.where(high, luminance, 1), 1)
    scaled: NDArray[np.float32] = (light * factor).astype(np.float32, copy=False)
    return scaled
