"""OpenEXR files: written in linear light and half floats, and read from anybody.

Attributes: "Standard Attributes", https://openexr.com/en/latest/StandardAttributes.html. ``envmap`` says that the
picture is a whole sphere by latitude and longitude, longitudes falling from left to right about an axis that points up,
which is how a panorama looks from inside.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from dit360_core.panorama.levels import Floats, strips
from dit360_core.panorama.light import KNEE, PEAK, compress_highlights, expand_highlights, to_light, to_srgb_code
from dit360_core.panorama.metadata import creator_tool
from dit360_core.panorama.profiles import possible, to_srgb_primaries

EXR_MARK = b"\x76\x2f\x31\x01"

_REC709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
_KNEE, _PEAK = "dit360HighlightKnee", "dit360HighlightPeak"
_MOST_CHANNELS = 64
_BRIGHTEST = 65_504.0
"""Of half floats; what float files hold beyond would overflow on the way to a screen's colours."""
_LISTENING = threading.Lock()

DISPLAY_REFERRED = (
    "Display-referred: the linear light (IEC 61966-2-1 decoded) of a picture made for a screen, 1.0 is its white. Not "
    "scene-referred: no real light intensities, nothing brighter than white was ever known."
)
EXPANDED = (
    " Highlights of a luminance above {knee:g} were expanded up to {peak:g} by the inverse of Reinhard's operator "
    "(2002, eq. 4): invented, for image-based lighting."
)
OF_EIGHT_BITS = " It was made of a picture with 8 bits a channel."


class CannotRead(Exception):
    """What is said of a file after its name."""


@attrs.frozen(kw_only=True)
class Header:
    """What a file says before its pixels.

    size: (width, height) in pixels.
    channels: to read: R, G, B or Y, and A if there is one.
    left_out: names of other channels.
    xmp: the packet, or nothing.
    points: red, green, blue, white, as CIE xy; None: not told.
    expanded: (knee, peak) with which highlights were expanded; None: they were not.
    """

    size: tuple[int, int]
    channels: tuple[str, ...]
    left_out: tuple[str, ...]
    xmp: bytes
    points: tuple[tuple[float, float], ...] | None
    expanded: tuple[float, float] | None


@attrs.frozen(kw_only=True)
class Read:
    """A file's pixels.

    floats: ``(H, W, 3)``, as sRGB codes them, 0 … 1.
    alpha: ``(H, W)``, 0 … 1; None: all of it is opaque.
    converted: whether its colours were of other primaries than those of sRGB.
    told: what could not be used, one sentence each, to follow the file's name.
    """

    floats: Floats
    alpha: NDArray[np.float32] | None
    converted: bool
    told: tuple[str, ...]


def exr_of(floats: Floats, xmp: bytes, *, whole: bool, deep: bool, expand: bool) -> bytes:
    """The bytes of a file: half floats in linear light, packed without loss (ZIP).

    floats: ``(H, W, 3)``, as sRGB codes them, 0 … 1.
    xmp: the packet, kept as a text.
    whole: the picture is a whole sphere.
    deep: it has more than 8 bits a channel.
    expand: expand its highlights beyond white.
    """
    import OpenEXR  # an extra, see formats.py

    halves = np.empty(floats.shape, np.float16)
    for rows in strips(*floats.shape[:2]):
        light = to_light(floats[rows])
        halves[rows] = expand_highlights(light) if expand else light
    words = DISPLAY_REFERRED + ("" if deep else OF_EIGHT_BITS)
    header: dict[str, Any] = {
        "type": OpenEXR.scanlineimage,
        "compression": OpenEXR.ZIP_COMPRESSION,
        "chromaticities": _REC709,
        "comments": words + (EXPANDED.format(knee=KNEE, peak=PEAK) if expand else ""),
        "software": creator_tool(),
        "xmp": xmp.decode("utf-8"),
    }
    if whole:
        header["envmap"] = OpenEXR.ENVMAP_LATLONG
    if expand:
        header |= {_KNEE: float(KNEE), _PEAK: float(PEAK)}
    buffer = io.BytesIO()
    OpenEXR.File(header, {"RGB": halves}).write(buffer)
    return buffer.getvalue()


def read_header(stream: IO[bytes]) -> Header:
    """What a file says before its pixels, none of which is decoded.

    Raises CannotRead for what holds no picture of this kind, and what OpenEXR raises for damage.
    """
    import OpenEXR  # an extra, see formats.py

    stream.seek(0)
    with _unheard():
        parts = OpenEXR.File(stream, header_only=True).parts
    if len(parts) != 1:
        raise CannotRead(f"it holds {len(parts)} pictures (parts); save one of them by itself")
    header = parts[0].header
    if header.get("type") not in (OpenEXR.scanlineimage, OpenEXR.tiledimage):
        raise CannotRead("it is a deep picture, with several depths in a pixel; flatten it first")
    if header.get("envmap") == OpenEXR.ENVMAP_CUBE:
        raise CannotRead("it is a cube map; convert it to latitude and longitude first")
    (left, top), (right, bottom) = (tuple(int(n) for n in corner) for corner in header["dataWindow"])
    shown = tuple(tuple(int(n) for n in corner) for corner in header["displayWindow"])
    if shown != ((left, top), (right, bottom)):
        raise CannotRead("its pixels do not cover just what it shows (data window, display window); crop it first")
    sampled = {channel.name: (channel.xSampling, channel.ySampling) for channel in header["channels"]}
    channels = _wanted(sampled)
    xmp = header.get("xmp", "")
    return Header(
        size=(right - left + 1, bottom - top + 1),
        channels=channels,
        left_out=tuple(name for name in sampled if name not in channels),
        xmp=xmp.encode("utf-8", "replace") if isinstance(xmp, str) else b"",
        points=_points(header.get("chromaticities")),
        expanded=_expanded(header.get(_KNEE), header.get(_PEAK)),
    )


def read_pixels(stream: IO[bytes], header: Header) -> Read:
    """The pixels of a file, as a screen shows them. Raises what OpenEXR raises for damage.

    header: as :func:`read_header` gave it.
    """
    # An extra, see formats.py.
    import Imath
    import OpenEXR

    width, height = header.size
    stream.seek(0)
    with _unheard():
        # Of all channels those that are wanted alone, however many there are.
        planes = OpenEXR.InputFile(stream).channels(list(header.channels), Imath.PixelType(Imath.PixelType.FLOAT))
    named = {
        name: np.frombuffer(plane, np.float32).reshape(height, width)
        for name, plane in zip(header.channels, planes, strict=True)
    }
    alpha = named.pop("A", None)
    colours = [named[name] for name in ("R", "G", "B")] if "R" in named else [named["Y"]] * 3
    spanned = header.points is None or possible(header.points)
    matrix = to_srgb_primaries(header.points) if header.points is not None and spanned else None
    floats = np.empty((height, width, 3), np.float32)
    unknown = outside = 0
    brightest = 0.0
    for rows in strips(height, width):
        light = np.stack([plane[rows] for plane in colours], axis=-1)
        finite = np.isfinite(light).all(-1)
        unknown += int((~finite).sum())
        light = np.nan_to_num(light, nan=0.0, posinf=_BRIGHTEST, neginf=0.0)
        if alpha is not None:
            # Colours are multiplied by their opacity, as OpenEXR has it.
            covered = np.nan_to_num(alpha[rows])[..., None]
            with np.errstate(over="ignore"):  # of what has next to no opacity, cut below
                light = np.divide(light, covered, out=light, where=covered > 0)
        np.clip(light, -_BRIGHTEST, _BRIGHTEST, out=light)
        if matrix is not None:
            light = (light @ matrix.T).astype(np.float32)
        if header.expanded is not None:
            light = compress_highlights(light, *header.expanded)
        # White in half floats, through a matrix or a curve, may lie a rounding beside 1.
        outside += int(((light < -0.001) | (light > 1.001)).any(-1).sum())
        brightest = max(brightest, float(light.max()))
        floats[rows] = to_srgb_code(light)
    told = []
    if not spanned:
        told.append("opens, but its primaries (chromaticities) span no colours, and it is taken for Rec. 709.")
    if unknown:
        told.append(f"opens, but {unknown} of its pixels are no finite numbers, and are black or white.")
    if outside:
        share = 100 * outside / (width * height)
        told.append(
            f"opens, but {share:.2g} % of its pixels lie outside of what a screen shows (up to {brightest:.3g} times "
            "its white), and are cut to that."
        )
    if header.left_out:
        told.append(f"opens without its channels {', '.join(sorted(header.left_out)[:8])}.")
    if header.expanded is not None:
        told.append("opens with its expanded highlights compressed again, by the curve that they were expanded with.")
    cover = None if alpha is None else np.clip(np.nan_to_num(alpha), 0, 1)
    return Read(
        floats=floats,
        alpha=None if cover is None or bool((cover == 1).all()) else cover,
        converted=matrix is not None,
        told=tuple(told),
    )


def _wanted(sampled: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    if len(sampled) > _MOST_CHANNELS:
        raise CannotRead(f"it has {len(sampled)} channels; save R, G and B alone")
    colours = next((names for names in (("R", "G", "B"), ("Y",)) if all(name in sampled for name in names)), None)
    if colours is None or ("R" not in sampled and "RY" in sampled):
        names = ", ".join(sorted(sampled)[:8]) or "none"
        raise CannotRead(f"it lacks the channels R, G and B (it has {names}); save it as plain RGB")
    wanted = (*colours, "A") if "A" in sampled else colours
    if any(sampled[name] != (1, 1) for name in wanted):
        raise CannotRead("some of its channels have fewer pixels than others; save it with all of them")
    return wanted


def _points(given: Any) -> tuple[tuple[float, float], ...] | None:
    if not isinstance(given, tuple) or len(given) != 8 or not all(math.isfinite(number) for number in given):
        return None
    return tuple((float(x), float(y)) for x, y in zip(given[0::2], given[1::2], strict=True))


def _expanded(knee: Any, peak: Any) -> tuple[float, float] | None:
    if not isinstance(knee, float) or not isinstance(peak, float):
        return None
    return (knee, peak) if 0.01 <= knee <= 0.99 and 1 < peak <= 65_504 else None


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What OpenEXR itself prints of a damaged file is not shown; what else is printed meanwhile comes after it."""
    # One at a time: another would take the first one's file for standard error.
    with _LISTENING, tempfile.TemporaryFile() as kept:
        try:
            before = os.dup(2)
        except OSError:  # it is closed, so that nothing is printed anyhow
            yield
            return
        os.dup2(kept.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            if not failed and (others := kept.read()):
                with contextlib.suppress(OSError):
                    os.write(2, others)
