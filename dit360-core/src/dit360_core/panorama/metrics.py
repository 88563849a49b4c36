"""How well a panorama closes on itself: numbers from the pixels alone, without a network.

All functions take equirectangular pictures of shape (H, W, 3), uint8 in 0 … 255 or floating point in 0 … 1.
Column 0 and column W − 1 are neighbours on the sphere; row 0 and row H − 1 are the poles.

A seam is judged against the picture's own interior steps, on both sides: a wrap step that is much *smaller*
than the others is a blurred edge, which is a defect too.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from dit360_core.errors import InputError

#: A picture, (H, W, 3), uint8 in 0 … 255 or floating point in 0 … 1.
Pixels = NDArray[Any]

#: Steps below this (in units of the full range) are rounding errors of floating-point pictures, hence no
#: steps.
_NOTHING = 1e-9

_LUMA = np.array([0.299, 0.587, 0.114])


@attrs.frozen(kw_only=True)
class Blocks:
    """The blocks in which a lossy file codes its pixels, at whose edges columns differ more than within.

    name: of the format.
    columns: pixels from edge to edge.
    luma: whether only brightness is to be compared, since the colours have fewer columns, which a decoder makes smooth
    within the picture but not across its edges.
    over: columns on either side whose means are compared, where a format codes a block as the difference to its
    neighbour and smooths the edges between them, but not that at the meridian.
    first: the first column that begins a block, after column 0, which always does.
    turned: columns that the picture was turned by since, as :func:`yaw` does with ``degrees`` above 0.
    """

    name: str
    columns: int
    luma: bool = False
    over: int = 1
    first: int = 0
    turned: int = 0

    def edges(self, width: int) -> NDArray[np.bool_]:
        """(W,): whether a column and the one before it are of two blocks; the last column is before column 0."""
        columns = (np.arange(width) + self.turned) % width
        return np.asarray((columns == 0) | ((columns - self.first) % self.columns == 0))


@attrs.frozen(kw_only=True)
class Seam:
    """The ±180° meridian.

    ratio and z_score: see seam_ratio, seam_z_score.

    discontinuity: see discontinuity_score; NaN for a picture that is narrower than 6 columns.
    compared: steps between columns that the step there was compared with.
    """

    ratio: float
    z_score: float
    discontinuity: float
    compared: int


@attrs.frozen(kw_only=True)
class Poles:
    """Standard deviation of the rows at the zenith (top) and the nadir (bottom), in grey levels of 255."""

    top: float
    bottom: float


def seam(pixels: Pixels, blocks: Blocks | None = None) -> Seam:
    """All measures of the ±180° meridian. Raises InputError if ``pixels`` is not such a picture.

    blocks: of the lossy file that the pixels were read from. The meridian of such a picture lies between two blocks,
    and its step is compared with those at the other edges of blocks: like with like. None: with all steps.
    """
    wrap, interior = _column_steps(pixels, blocks)
    if blocks is not None:
        edges = blocks.edges(len(interior) + 1)
        alike = interior[edges[1:] == edges[0]]
        interior = alike if alike.size else interior
    return Seam(
        ratio=_ratio(wrap, interior),
        z_score=_z_score(wrap, interior),
        discontinuity=discontinuity_score(pixels) if np.shape(pixels)[1] >= 6 else math.nan,
        compared=int(interior.size),
    )


def seam_ratio(pixels: Pixels) -> float:
    """The step over the ±180° meridian in units of an ordinary step between columns.

    ratio = mean|x[:, 0] − x[:, W−1]| / median over j = 0 … W−2 of mean|x[:, j+1] − x[:, j]|, each mean over
    rows and channels. No unit. Good is 0.8 … 1.25; above is a visible seam, below a blurred one.

    Where the median step is nothing (at least half of the columns equal their neighbours): 1 if the wrap step
    is nothing too, as in a picture of one colour, else ``inf``. Raises InputError if ``pixels`` is not a
    picture.
    """
    return _ratio(*_column_steps(pixels))


def seam_z_score(pixels: Pixels) -> float:
    """How unusual the step over the ±180° meridian is among the interior steps.

    z = (wrap − mean(interior)) / std(interior), with the steps of seam_ratio. No unit. Good is −2 … 2. Where
    all interior steps are equal: 0 if the wrap step equals them too, else ``inf`` or ``-inf``. Raises
    InputError if ``pixels`` is not a picture.
    """
    return _z_score(*_column_steps(pixels))


def discontinuity_score(pixels: Pixels) -> float:
    """Discontinuity Score of the ±180° meridian: edges at the seam against the edges just beside it.

    The grey picture (ITU-R BT.601 luma, in 0 … 1) gives its last three and first three columns, side by side:
    (H, 6). Scharr's horizontal derivative, [[−3, 0, 3], [−10, 0, 10], [−3, 0, 3]], gives a of shape (H, 4),
    where a₁ and a₂ straddle the seam and a₀ and a₃ do not. DS = 1/(2H) · Σ over rows of |a₁|/(|a₀| + c) +
    |a₂|/(|a₃| + c), c = 0.1. The first and last row are repeated for the derivative. No unit; 0 … 160. Good
    is about 1 or below in a textured picture; a blur across the seam brings it to 0, therefore judge by
    seam_ratio as well.

    Source: Christensen et al., "Geometry Fidelity for Spherical Images", ECCV 2024.
    Raises InputError if ``pixels`` is not a picture or narrower than 6 columns.
    """
    pixels = _checked(pixels)
    if pixels.shape[1] < 6:
        raise InputError(f"The discontinuity score needs 6 columns, not {pixels.shape[1]}; use a wider picture.")
    band = _unit_range(np.concatenate((pixels[:, -3:], pixels[:, :3]), axis=1)) @ _LUMA
    band = np.pad(band, ((1, 1), (0, 0)), mode="edge")
    across = band[:, 2:] - band[:, :-2]
    a0, a1, a2, a3 = np.abs(3 * across[:-2] + 10 * across[1:-1] + 3 * across[2:]).T
    c = 0.1
    return float(np.mean(a1 / (a0 + c) + a2 / (a3 + c)) / 2)


def ws_psnr(pixels: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio on the sphere, in dB: rows count by the area that they cover.

    WS-PSNR = 10·log₁₀(1 / (Σ w·(x − y)² / Σ w)) for x, y in 0 … 1, w(i) = cos((i + ½ − H/2)·π/H) for row i.
    ``inf`` for equal pictures; above 40 dB two pictures can hardly be told apart.

    Source: Sun, Lu and Yu, "Weighted-to-Spherically-Uniform Quality Evaluation for Omnidirectional Video",
    IEEE Signal Processing Letters 24(9), 2017. Raises InputError if the two differ in shape or are no
    pictures.
    """
    pixels, reference = _checked(pixels), _checked(reference)
    if pixels.shape != reference.shape:
        raise InputError(
            f"WS-PSNR compares pictures of one size, but these are {_size(pixels)} and {_size(reference)}; resize one."
        )
    height = pixels.shape[0]
    rows = np.array([np.mean((_unit_range(a) - _unit_range(b)) ** 2) for a, b in zip(pixels, reference, strict=True)])
    weights = np.cos((np.arange(height) + 0.5 - height / 2) * np.pi / height)
    error = float(weights @ rows / weights.sum())
    return math.inf if error == 0 else -10 * math.log10(error)


def pole_constancy(pixels: Pixels) -> Poles:
    """Standard deviation along the first and along the last row, mean over channels, in grey levels of 255 (0 … 127.5).

    Each of these rows is one small circle around a pole, so its colour should hardly change. 0 is perfect,
    below about 3 nothing shows, above 10 a pinch does. Raises InputError if ``pixels`` is not a picture.
    """
    pixels = _checked(pixels)
    top, bottom = (float(255 * _unit_range(pixels[row]).std(axis=0).mean()) for row in (0, -1))
    return Poles(top=top, bottom=bottom)


def yaw(pixels: Pixels, degrees: float) -> Pixels:
    """The picture after the viewer has turned right by ``degrees``: what was seen at that yaw is now in the centre.

    The turn is rounded to whole columns (360°/W each), so no pixel changes and turning back restores the
    picture bit for bit. (H, W, 3) → (H, W, 3), a new array of the same type. Raises InputError if ``degrees``
    is not finite or ``pixels`` is not a picture.
    """
    pixels = _checked(pixels)
    if not math.isfinite(degrees):
        raise InputError(f"A turn of {degrees} degrees is none; give a finite number.")
    return np.roll(pixels, -round(math.fmod(degrees, 360) / 360 * pixels.shape[1]), axis=1)


def _ratio(wrap: float, interior: NDArray[np.float64]) -> float:
    usual = float(np.median(interior))
    if usual > _NOTHING:
        return wrap / usual
    return 1.0 if wrap <= _NOTHING else math.inf


def _z_score(wrap: float, interior: NDArray[np.float64]) -> float:
    excess, spread = wrap - float(interior.mean()), float(interior.std())
    if spread > _NOTHING:
        return excess / spread
    return 0.0 if abs(excess) <= _NOTHING else math.copysign(math.inf, excess)


def _column_steps(pixels: Pixels, blocks: Blocks | None = None) -> tuple[float, NDArray[np.float64]]:
    """Mean absolute step between neighbouring columns, full range = 1: over the seam, and the W − 1 interior ones.

    blocks: whether of the brightness (ITU-R BT.601) instead of the three colours, and of means of how many columns.
    """
    pixels = _checked(pixels)
    total = np.zeros(pixels.shape[1])
    over = min(blocks.over, pixels.shape[1]) if blocks is not None else 1
    # Row by row: a whole 8192 × 4096 picture in float64 would take gigabytes for a few numbers.
    for row in pixels:
        row = _unit_range(row) @ _LUMA[:, None] if blocks is not None and blocks.luma else _unit_range(row)
        if over == 1:
            total += np.abs(row - np.roll(row, 1, axis=0)).mean(axis=-1)
        else:
            sums = np.cumsum(np.concatenate((np.zeros_like(row[:1]), row[-over:], row, row[:over])), axis=0)
            means = (sums[over:] - sums[:-over]) / over  # of the columns from j − over on, for j = 0 …
            total += np.abs(means[over : over + len(total)] - means[: len(total)]).mean(axis=-1)
    total /= pixels.shape[0]
    return float(total[0]), total[1:]


def _checked(pixels: Pixels) -> Pixels:
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] < 1 or pixels.shape[1] < 2:
        raise InputError(f"A picture is an array (H, W, 3), but this one is {pixels.shape}; convert it to RGB.")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"A picture holds uint8 or floating-point numbers, not {pixels.dtype}; convert it.")
    return pixels


def _unit_range(pixels: Pixels) -> NDArray[np.float64]:
    return pixels / 255.0 if pixels.dtype == np.uint8 else pixels.astype(np.float64)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"
