"""Colour profiles made of what a PNG says of its colours without one: its chunks cICP, or cHRM and gAMA.

Chunks, and which of them counts before which: Portable Network Graphics (third edition), 4.3 and 11.3.2. Numbers of
cICP: ITU-T H.273. Layout of a profile: ICC.1:2001-04. Adaptation to another white: Bradford's matrix, as in ICC.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

_D65 = (0.3127, 0.3290)
_D50_XYZ = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

#: Red, green, blue, white, as CIE xy.
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
_PRIMARIES = {
    1: ("BT.709", _SRGB),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)),
    11: ("DCI-P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351))),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)),
}
_FARTHEST, _LOWEST = 100.0, 1e-6
"""Of CIE xy, beyond which no colour space lies, and above which y is no zero."""
_VIDEO = (1, 6, 14, 15)
_SRGB_CURVE = 13
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_BRIGHT = {16: "PQ", 18: "HLG"}


@attrs.frozen(kw_only=True)
class Chunks:
    """What a PNG's chunks of these names hold, or nothing.

    srgb: whether it says sRGB outright.
    """

    cicp: bytes = b""
    srgb: bool = False
    chrm: bytes = b""
    gama: bytes = b""


def profile_of(chunks: Chunks) -> tuple[bytes, str]:
    """(an ICC profile's bytes, nothing where the colours are those of sRGB; what cannot be converted, or nothing)."""
    if len(chunks.cicp) == 4:
        return _of_cicp(*chunks.cicp)
    if chunks.srgb or len(chunks.gama) != 4:
        return b"", ""
    [stored] = struct.unpack(">I", chunks.gama)
    exponent = 100_000 / stored if 1_000 <= stored <= 1_000_000 else 2.2
    points = _SRGB
    if len(chunks.chrm) == 32:
        white, red, green, blue = ((x / 1e5, y / 1e5) for x, y in struct.iter_unpack(">2I", chunks.chrm))
        points = (red, green, blue, white)
    if not possible(points):
        return b"", "its primaries (cHRM) span no colours, and it is taken for sRGB."
    # 1/2.2 beside the primaries of sRGB stands for its curve, as nearly every picture has it.
    if abs(exponent - 2.2) < 0.1 and _alike(points, _SRGB):
        return b"", ""
    return _profile("cHRM and gAMA", points, lambda v: v**exponent), ""


def to_srgb_primaries(points: tuple[tuple[float, float], ...]) -> NDArray[np.float64] | None:
    """(3, 3): light of other primaries → of those of sRGB; None where they are the same.

    points: red, green, blue, white, as CIE xy, which are :func:`possible`.
    """
    if _alike(points, _SRGB):
        return None
    return np.asarray(np.linalg.solve(_to_d50(_SRGB), _to_d50(points)), np.float64)


def _of_cicp(primaries: int, transfer: int, matrix: int, full: int) -> tuple[bytes, str]:
    if transfer in _BRIGHT:
        return b"", f"it is brighter than a screen's white ({_BRIGHT[transfer]}), and is taken for sRGB: convert it."
    known = transfer == _SRGB_CURVE or transfer in _VIDEO or transfer in _POWERS
    if primaries not in _PRIMARIES or not known or matrix or full != 1:
        return b"", f"its colours are of a kind that is not read (cICP {primaries}, {transfer}), and taken for sRGB."
    name, points = _PRIMARIES[primaries]
    if transfer == _SRGB_CURVE:
        return (b"" if primaries == 1 else _profile(name, points, _srgb_curve)), ""
    if transfer in _VIDEO:
        return _profile(name, points, _video_curve), ""
    return _profile(name, points, lambda v: v ** _POWERS[transfer]), ""


def possible(points: tuple[tuple[float, float], ...]) -> bool:
    """Whether three primaries span colours, of which the white can be one.

    points: red, green, blue, white, as CIE xy. A primary that no light has may lie below y = 0, as the blue of
    ACES2065-1 does; at y = 0 it would have no brightness to be measured by.
    """
    (rx, ry), (gx, gy), (bx, by), (_, wy) = points
    small = all(abs(number) < _FARTHEST for point in points for number in point)
    measured = min(abs(ry), abs(gy), abs(by)) > _LOWEST and wy > _LOWEST
    return small and measured and abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry)) > 1e-3


def _alike(points: tuple[tuple[float, float], ...], others: tuple[tuple[float, float], ...]) -> bool:
    return all(
        abs(a - b) < 0.005 for one, other in zip(points, others, strict=True) for a, b in zip(one, other, strict=True)
    )


def _srgb_curve(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _video_curve(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def _profile(
    name: str,
    points: tuple[tuple[float, float], ...],
    curve: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> bytes:
    """A matrix profile of version 2.

    points: red, green, blue, white; curve: stored 0 … 1 → light 0 … 1.
    """
    steps = np.round(65_535 * curve(np.linspace(0, 1, 1024))).clip(0, 65_535).astype(">u2").tobytes()
    tone = b"curv" + bytes(4) + struct.pack(">I", 1024) + steps
    told = name.encode("ascii") + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(told)) + told + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz_tag(_D50_XYZ),
    }
    for letter, column in zip((b"r", b"g", b"b"), _to_d50(points).T, strict=True):
        tags |= {letter + b"XYZ": _xyz_tag(tuple(column)), letter + b"TRC": tone}
    at, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(data), 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(28) + _xyz_tag(_D50_XYZ)[8:] + bytes(48)
    return head + table + data


def _to_d50(points: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """(3, 3): light of the three primaries, 0 … 1 each → XYZ beside D50."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in points]).T
    primaries, white = columns[:, :3], columns[:, 3]
    primaries = primaries * np.linalg.solve(primaries, white)
    bradford = np.array(_BRADFORD)
    scale = (bradford @ np.array(_D50_XYZ)) / (bradford @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(bradford) @ np.diag(scale) @ bradford @ primaries
    return adapted


def _xyz_tag(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65_536 * max(-30_000.0, min(30_000.0, v))) for v in values))
