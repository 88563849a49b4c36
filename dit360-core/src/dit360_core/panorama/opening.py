"""Reads a picture file: its pixels upright and in sRGB, what its metadata say, and how its pixels were coded."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ExifTags import IFD
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile

from dit360_core.errors import InputError
from dit360_core.panorama.colours import to_srgb
from dit360_core.panorama.containers import JPEG_MARK, PNG_MARK, Around, around, decodable
from dit360_core.panorama.deep import Separate, decoded, has_16_bits, is_deep, white_is_zero
from dit360_core.panorama.exr import EXR_MARK, CannotRead, Header, read_header, read_pixels
from dit360_core.panorama.formats import OPENEXR, check_library
from dit360_core.panorama.levels import Floats, eight_bits, floats_of
from dit360_core.panorama.metadata import Metadata, read_xmp
from dit360_core.panorama.metrics import Blocks
from dit360_core.panorama.tiff_numbers import why_not_read

OPENED = 2 * 89_478_485
"""Pixels of the largest picture that is opened unasked: twice Pillow's own bound."""
MOST_PIXELS = "DIT360_MAX_PIXELS"
"""Environment variable: pixels that a picture may have, above what Pillow opens safely."""

# What decoders raise for files that are damaged.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, RuntimeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip

_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = (b"avif", b"avis")
_EMBEDDED = ("JPEG", "PNG", "WEBP")
"""Formats, in Pillow's words, that every browser shows."""


@attrs.frozen(kw_only=True)
class Opened:
    """A picture file as it was read.

    image: RGB, upright, in sRGB.
    metadata: of its XMP.
    coded: the blocks in which its pixels were coded, if any.
    profile: the name of the colour profile that it was converted from, or nothing.
    as_it_is: whether its bytes show any browser the same picture, and tell nothing else.
    told: what could not be used, one sentence each, to follow the file's name.
    alpha: its transparency (mode L, 255: opaque), upright; None: all of it is opaque.
    focal: millimetres of the lens on 35 mm film, as EXIF says; None: it does not.
    floats: its colours as sRGB codes them, of which ``image`` is the rounding, where it has more than 8 bits; or None.
    precision: in words, where it has more than 8 bits.
    """

    image: Image.Image
    metadata: Metadata
    coded: Blocks | None
    profile: str
    as_it_is: bool
    told: tuple[str, ...]
    alpha: Image.Image | None = None
    focal: float | None = None
    floats: Floats | None = None
    precision: str = ""


def read_picture(path: Path) -> Opened:
    """Reads a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR file.

    Raises InputError if it is missing, no such picture, damaged, of a kind that cannot be shown as it is meant (floats
    in TIFF, several pictures in OpenEXR), or has more pixels than are opened unasked: twice
    ``PIL.Image.MAX_IMAGE_PIXELS``, or what the environment variable DIT360_MAX_PIXELS says.
    """
    with _file(path) as stream:
        if _is_exr(stream):
            return _read_exr(path, stream)
        file = _decoder(path, stream)
        try:
            cut = has_16_bits(file)
            _check_numbers(file, stream)
            deep = decoded(file, lambda: _decoder(path, stream)) if is_deep(file) else None
            file.load()
            told = around(file, stream)
            coded = _blocks(file, stream)
            mode = file.mode
            # A page is made to be passed on, and these tell where and by whom a photo was made.
            private = bool(told.exif or "photoshop" in file.info or (told.xmp and b"dit360" not in told.xmp))
            # Nothing but what was read with care: texts can lie in `info` under the names of anything.
            given = _transparency(file)
            file.info = {"exif": told.exif, "xmp": told.xmp, **({} if _is_colour(given) and cut else given)}
            upright, turn = _upright(file)
            alpha = _keyed(deep, given, turn) if deep is not None and _is_colour(given) else alpha_of(upright)
        except _Unreadable as error:
            raise InputError(f"Cannot open {path}: {error}.") from error
        except Separate as error:
            raise InputError(
                f"Cannot open {path}: it has over 8 bits a channel, and the planes of its colours one after the other; "
                "save it interleaved (chunky)."
            ) from error
        except _DAMAGE as error:
            raise _damaged(path, error) from error
    metadata, sentences = _metadata(told)
    floats = None
    if deep is not None:
        floats, upright = _shown(deep, turn)
    image, profile, unused = to_srgb(upright, told.profile) if told.profile else (upright.convert("RGB"), "", "")
    if (
        floats is not None
        and told.profile
        and not np.array_equal(np.asarray(image), np.asarray(upright.convert("RGB")))
    ):
        # Little CMS converts 8 bits here.
        sentences.append(f"opens with 8 of its 16 bits a channel, as its colours are converted from {profile}.")
        floats = None
    if cut and deep is None:
        sentences.append("opens with 8 of its 16 bits a channel.")
    if _has_more(file):
        sentences.append("holds several pictures, of which the first is taken.")
    if not told.profile and _adobe_rgb(file):
        sentences.append("opens, but its EXIF says Adobe RGB and it holds no colour profile: it is taken for sRGB.")
    if told.told:
        sentences.append(f"opens, but {told.told}")
    if unused:
        sentences.append(f"opens without its colour profile, and is taken for sRGB: {unused}.")
    image.info = {}
    embeddable = file.format in _EMBEDDED and deep is None and turn is None and not told.profile
    return Opened(
        image=image,
        metadata=metadata,
        coded=_turned(coded, turn, image.size),
        profile=profile,
        as_it_is=embeddable and mode in ("RGB", "L") and not private,
        told=tuple(sentences),
        alpha=alpha,
        focal=focal_length(file),
        floats=floats,
        precision="" if floats is None else "16 bits a channel",
    )


def _read_exr(path: Path, stream: IO[bytes]) -> Opened:
    header = _exr_header(path, stream)
    check_pixels(header.size, f"Cannot open {path}: it has")
    try:
        read = read_pixels(stream, header)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    metadata, sentences = _metadata(Around(xmp=header.xmp))
    return Opened(
        image=Image.fromarray(eight_bits(read.floats)),
        metadata=metadata,
        coded=None,
        profile="linear light of other primaries" if read.converted else "",
        as_it_is=False,
        told=(*sentences, *read.told),
        alpha=None if read.alpha is None else Image.fromarray(eight_bits(read.alpha)),
        floats=read.floats,
        precision="OpenEXR, linear light",
    )


def _exr_header(path: Path, stream: IO[bytes]) -> Header:
    check_library(OPENEXR, f"Opening {path}, an OpenEXR file,")
    try:
        return read_header(stream)
    except CannotRead as error:
        raise InputError(f"Cannot open {path}: {error}.") from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _shown(levels: NDArray[np.uint16], turn: Transpose | None) -> tuple[Floats, Image.Image]:
    """(the colours of a picture of 16 bits, upright; the same with 8, in grey where it is grey).

    levels: ``(H, W, C)``, opacity being the second of 2 and the last of 4.
    """
    colours = levels[..., :3] if levels.shape[2] > 2 else levels[..., :1]
    floats = floats_of(colours)
    if turn is not None:
        floats = np.ascontiguousarray(_TURNS[turn](floats))
    rounded = eight_bits(floats)
    if rounded.shape[2] == 1:
        return np.repeat(floats, 3, axis=2), Image.fromarray(rounded[..., 0])
    return floats, Image.fromarray(rounded)


def read_greys(path: Path) -> Image.Image:
    """A picture file as it is, upright, of 8 or 16 bits a channel, colours and transparency as they are coded.

    Raises InputError as :func:`read_picture` does, but not for 16 bits.
    """
    with _file(path) as stream:
        if _is_exr(stream):
            raise InputError(
                f"Cannot open {path}: it is not a JPEG, PNG, WebP, AVIF or TIFF picture; convert it first."
            )
        file = _decoder(path, stream)
        try:
            cut = is_deep(file)  # which tells of planes that cannot be read
            _check_numbers(file, stream)
            file.load()
            told = around(file, stream)
            given = _transparency(file)
            if cut and _is_colour(given):  # Pillow keeps the upper 8 bits of colours
                given = {"transparency": tuple(level >> 8 for level in given["transparency"])}
            file.info = {"exif": told.exif, **given}
            upright = _upright(file)[0]
            return _negative(upright) if white_is_zero(file) else upright
        except _Unreadable as error:
            raise InputError(f"Cannot open {path}: {error}.") from error
        except Separate as error:
            raise InputError(
                f"Cannot open {path}: the planes of its colours lie one after the other; save it with 8 bits a channel."
            ) from error
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def read_metadata(path: Path) -> Metadata:
    """What the metadata of a picture file say, without decoding the picture; nothing if it is none."""
    try:
        with _file(path) as stream:
            if _is_exr(stream):
                return _metadata(Around(xmp=_exr_header(path, stream).xmp))[0]
            return _metadata(around(_decoder(path, stream), stream))[0]
    except (InputError, *_DAMAGE):
        return Metadata()


def check_opens(path: Path) -> None:
    """Raises InputError as :func:`read_picture` does for a file of which there are no bytes: none, or a folder."""
    _file(path).close()


class _Unreadable(Exception):
    """What is said of a file after its name."""


def _file(path: Path) -> IO[bytes]:
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        # Opening a pipe waits until somebody writes to it, and a device may never end.
        raise InputError(f"Cannot open {path}: it is a device or a pipe, and no file; save the picture first.")
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise InputError(f"Cannot open {path}: it is a folder; name the picture in it.") from error
        raise _unopened(path, error) from error


def _is_exr(stream: IO[bytes]) -> bool:
    head = stream.read(4)
    stream.seek(0)
    return head == EXR_MARK


def _decoder(path: Path, stream: IO[bytes]) -> ImageFile:
    """The picture, its header read. Only formats that we write: others of Pillow start programs or are little used."""
    stream.seek(0)
    head = stream.read(16)
    stream.seek(0)
    kinds: dict[type[ImageFile], bool] = {
        JpegImagePlugin.JpegImageFile: head.startswith(JPEG_MARK),
        PngImagePlugin.PngImageFile: head.startswith(PNG_MARK),
        WebPImagePlugin.WebPImageFile: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
        AvifImagePlugin.AvifImageFile: head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS,
        TiffImagePlugin.TiffImageFile: head.startswith(_TIFF_MARKS),
    }
    kind = next((kind for kind, matches in kinds.items() if matches), None)
    if kind is None:
        raise InputError(
            f"Cannot open {path}: it is not a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR picture; convert it first."
        )
    try:
        # The classes themselves, since Image.open knows a limit of its own, one for the whole process.
        file = kind(decodable(stream), os.fspath(path))
    except Image.DecompressionBombError as error:
        raise InputError(f"Cannot open {path}: {error}; resize it.") from error
    except _DAMAGE as error:
        if "unknown pixel mode" in str(error):  # Pillow's words for a TIFF whose numbers it has no mode for
            raise _not_read(path, stream, error) from error
        raise _damaged(path, error) from error
    check_pixels(file.size, f"Cannot open {path}: it has")
    return file


def _not_read(path: Path, stream: IO[bytes], error: Exception) -> InputError:
    """The error of a TIFF that Pillow has no mode for, where its tags tell what it is."""
    try:
        return InputError(f"Cannot open {path}: {why_not_read(stream)}.")
    except _DAMAGE:
        return _damaged(path, error)


def _check_numbers(file: ImageFile, stream: IO[bytes]) -> None:
    """Raises _Unreadable for floating-point numbers and whole ones of other than 8 or 16 bits: only a TIFF has them."""
    if file.mode.startswith(("I", "F")) and not is_deep(file):
        raise _Unreadable(why_not_read(stream))


def most_opened() -> int | None:
    """Pixels of the largest picture that is opened here; None: any.

    Twice ``PIL.Image.MAX_IMAGE_PIXELS``, or what the environment variable DIT360_MAX_PIXELS says. Raises InputError if
    that is not a whole number.
    """
    allowed = os.environ.get(MOST_PIXELS, "").strip()
    if not allowed:
        return None if Image.MAX_IMAGE_PIXELS is None else 2 * int(Image.MAX_IMAGE_PIXELS)
    if not allowed.isascii() or not allowed.isdigit() or len(allowed) > 18:
        raise InputError(f"{MOST_PIXELS} is {allowed[:40]!r}, but must be a whole number of pixels.")
    return int(allowed)


def check_pixels(size: tuple[int, int], told: str) -> None:
    """Raises InputError, which begins with ``told``, if a picture of this size is larger than is opened unasked."""
    pixels, most = size[0] * size[1], most_opened()
    if most is not None and pixels > most:
        raise InputError(
            f"{told} {size[0]}×{size[1]} pixels, more than the {most / 1e6:.0f} million that are opened unasked; "
            f"resize it, or, if you trust it, set {MOST_PIXELS}={pixels} in the environment and run this again."
        )


_UNOPENED = {
    errno.ENOENT: "there is no such file; check the name",
    errno.ENOTDIR: "there is no such file; check the name",
    errno.EACCES: "you have no permission to read it; change the permissions of the file or its folder",
    errno.EPERM: "you have no permission to read it; change the permissions of the file or its folder",
    errno.ELOOP: "it is a link that leads in a circle; name the picture itself",
    errno.ENAMETOOLONG: "the name is too long for a file; check it",
    errno.EIO: "its disk or network drive fails; see that it is there, or copy the file elsewhere",
}
"""Why a file cannot be opened, and what to do: none of it is a fault of the picture."""


def _unopened(path: Path, error: OSError | ValueError) -> InputError:
    """The error of a file of which the system gives no bytes.

    error: a ValueError of a name that no file can have.
    """
    shown = str(path) if str(path).isprintable() else repr(str(path))
    if not isinstance(error, OSError):
        return InputError(f"Cannot open {shown}: no file can be called so; check the name.")
    reason = error.strerror or error
    why = _UNOPENED.get(
        error.errno or 0, f"the system does not open it ({reason}); copy it elsewhere and name the copy"
    )
    return InputError(f"Cannot open {shown}: {why}.")


def _damaged(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno in _UNOPENED:  # Pillow's own have no number; a wild seek is EINVAL
        return _unopened(path, error)
    why = str(error) or type(error).__name__
    return InputError(
        f"Cannot open {path}: the picture is damaged or cannot be read ({why}); make or download it again."
    )


def _upright(file: ImageFile) -> tuple[Image.Image, Transpose | None]:
    """The picture as its EXIF says that it is to be seen, and how it was turned for that."""
    try:
        orientation = file.getexif().get(0x0112, 1)
        upright = ImageOps.exif_transpose(file)
    except _DAMAGE:  # EXIF that is damaged harms no pixel
        return file.copy(), None
    ways = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    return upright, dict(enumerate(ways, 2)).get(orientation)


def _has_more(file: ImageFile) -> bool:
    """Whether a TIFF file goes on after its first picture, or a file of another kind moves; the rest is not read."""
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        return bool(getattr(file.tag_v2, "next", 0))  # to count them, Pillow reads them
    return int(getattr(file, "n_frames", 1)) > 1


def _negative(image: Image.Image) -> Image.Image:
    """A picture in grey of 16 bits, black and white exchanged."""
    return Image.fromarray(65_535 - np.asarray(image).astype(np.uint16))


def _is_colour(transparency: dict[str | tuple[int, int], Any]) -> bool:
    """Whether it is one colour, red, green and blue, that is transparent."""
    return isinstance(transparency.get("transparency"), tuple)


def _keyed(
    levels: NDArray[np.uint16], transparency: dict[str | tuple[int, int], Any], turn: Transpose | None
) -> Image.Image | None:
    """As :func:`alpha_of`, of a picture of 16 bits of which one colour is transparent, all bits of which count."""
    clear = (levels == np.array(transparency["transparency"])).all(-1)
    alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    return (alpha if turn is None else alpha.transpose(turn)) if clear.any() else None


def _transparency(file: ImageFile) -> dict[str | tuple[int, int], Any]:
    """What says which colours of a picture are transparent, for Pillow."""
    given = file.info.get("transparency")
    return {"transparency": given} if isinstance(given, bytes | int | tuple) else {}


def alpha_of(image: Image.Image) -> Image.Image | None:
    """A picture's transparency (mode L, 255: opaque), or None if all of it is opaque."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I;16"):  # of which Pillow makes no RGBA
        clear = np.asarray(image) == image.info["transparency"]
        return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)) if clear.any() else None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def focal_length(image: Image.Image) -> float | None:
    """Millimetres of the lens on 35 mm film, as a picture's EXIF says (``FocalLengthIn35mmFilm``); None: it does not.

    Zero is EXIF's word for unknown, and 65535 a camera's that writes all bits; no lens is longer than a few metres.
    """
    try:
        given = float(image.getexif().get_ifd(IFD.Exif).get(0xA405) or 0.0)
    except (*_DAMAGE, ZeroDivisionError):
        return None
    return given if 1 <= given <= 10_000 else None


def _adobe_rgb(file: ImageFile) -> bool:
    """Whether EXIF says so, as cameras do that embed no profile: DCF's option file R03, or ColorSpace 2 of some."""
    try:
        exif = file.getexif()
        return exif.get_ifd(IFD.Interop).get(1) == "R03" or exif.get_ifd(IFD.Exif).get(0xA001) == 2
    except _DAMAGE:
        return False


def _metadata(told: Around) -> tuple[Metadata, list[str]]:
    """(what the XMP says, what of it could not be read)."""
    if not told.xmp:
        return Metadata(), []
    sentences = []
    try:
        metadata = read_xmp(told.xmp)
    except InputError as error:
        return Metadata(), [f"opens without its settings: {error}"]
    if metadata.extended and metadata.extended in told.extended:
        try:
            more = read_xmp(told.extended[metadata.extended])
        except InputError as error:
            sentences.append(f"opens without its extended metadata: {error}")
        else:
            metadata = attrs.evolve(
                metadata,
                gpano={**more.gpano, **metadata.gpano},
                settings=metadata.settings or more.settings,
                unread=metadata.unread or more.unread,
            )
    elif metadata.extended:
        sentences.append("opens without its extended metadata: they are damaged or were left out when it was copied.")
    if metadata.unread:
        sentences.append(f"opens without its settings: {metadata.unread}")
    return metadata, sentences


def _blocks(file: ImageFile, stream: IO[bytes]) -> Blocks | None:
    """The blocks in which the file's pixels were coded."""
    if file.format == "JPEG":
        layers = getattr(file, "layer", [])
        across = [layer[1] for layer in layers]
        return Blocks(name="JPEG", columns=8, luma=bool(across) and min(across) < max(across))
    if file.format == "WEBP" and not _lossless(stream):
        return Blocks(name="WebP", columns=16, luma=True, over=8)
    if file.format == "AVIF":
        # Its blocks are 4 … 64 columns wide as the picture wants it; at every 32nd column most begin.
        return Blocks(name="AVIF", columns=32)
    return None


def _lossless(stream: IO[bytes]) -> bool:
    """Whether a WebP file's first picture is coded without loss: in a chunk VP8L and not VP8."""
    stream.seek(12)
    while len(head := stream.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind in (b"VP8L", b"VP8 "):
            return bool(kind == b"VP8L")
        # Within a frame of an animation after 16 bytes about it; chunks have an even length.
        stream.seek(16 if kind == b"ANMF" else length + length % 2, os.SEEK_CUR)
    return False


_TURNS: dict[Transpose, Callable[[NDArray[Any]], NDArray[Any]]] = {
    Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Transpose.ROTATE_90: lambda pixels: np.rot90(pixels),
    Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Transpose.ROTATE_270: lambda pixels: np.rot90(pixels, 3),
    Transpose.TRANSPOSE: lambda pixels: pixels.swapaxes(0, 1),
    Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
}
"""Turns of Pillow, for arrays ``(H, W, C)``."""


def _turned(coded: Blocks | None, turn: Transpose | None, size: tuple[int, int]) -> Blocks | None:
    """The blocks after the picture was turned: those of JPEG are square, and WebP's too."""
    if coded is None or turn is None:
        return coded
    from_right = (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.TRANSVERSE, Transpose.ROTATE_270)
    return attrs.evolve(coded, first=size[0] % coded.columns) if turn in from_right else coded
