"""What lies around the pixels in a JPEG, PNG, WebP, AVIF or TIFF file: XMP packets, the colour profile, EXIF.

Of PNG it is read here, and not taken from Pillow's ``info``: there a chunk of text that somebody calls ``xmp``,
``icc_profile`` or ``interlace`` stands where the picture's own would.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import attrs
from PIL import Image

from dit360_core.panorama.profiles import Chunks, profile_of

PNG_MARK = b"\x89PNG\r\n\x1a\n"
JPEG_MARK = b"\xff\xd8\xff"

#: Bytes that a compressed chunk may become; a GiB of zeros fits into a MiB.
_LONGEST = 64 * 2**20

_AVIF_HEAD = 2**16
"""Bytes of an AVIF file in which its properties lie, before its pixels."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\x00"


@attrs.frozen(kw_only=True)
class Around:
    """What lies around the pixels of a file.

    xmp: the packet, or nothing.
    extended: the rest of it in a JPEG file, by its name.
    exif, profile: or nothing.

    told: what of the colours cannot be converted, as a sentence to follow the file's name, or nothing.
    """

    xmp: bytes = b""
    extended: dict[str, bytes] = attrs.field(factory=dict)
    exif: bytes = b""
    profile: bytes = b""
    told: str = ""


def decodable(stream: IO[bytes]) -> IO[bytes]:
    """The file for a decoder: of a PNG without texts called as Pillow's own entries, in small letters."""
    start = stream.tell()
    head = stream.read(8)
    stream.seek(start)
    if head != PNG_MARK or not any(_misleading(kind, data) for kind, data, _ in _chunks(stream, _TEXTS, 80)):
        stream.seek(start)
        return stream
    stream.seek(start)
    clean = io.BytesIO()
    clean.write(PNG_MARK)
    for kind, data, crc in _chunks(stream, None, None):
        if not _misleading(kind, data):
            clean.write(struct.pack(">I", len(data)) + kind + data + crc)
    clean.seek(0)
    return clean


def around(file: Image.Image, stream: IO[bytes]) -> Around:
    """What lies around the pixels.

    file: as Pillow opened it; stream: the file itself. Nothing is raised.
    """
    stream.seek(0)
    if stream.read(8) == PNG_MARK:
        stream.seek(0)
        return _of_png(stream)
    found = {name: file.info.get(name) for name in ("xmp", "exif", "icc_profile")}
    xmp, exif, profile = (value if isinstance(value, bytes) else b"" for value in found.values())
    told = ""
    if file.format == "AVIF" and not profile:
        stream.seek(0)
        profile, told = profile_of(Chunks(cicp=_cicp_of_avif(stream.read(_AVIF_HEAD))))
    return Around(xmp=xmp, exif=exif, profile=profile, told=told, extended=_extended(getattr(file, "applist", [])))


def _cicp_of_avif(head: bytes) -> bytes:
    """What the box of its colours says (ISO 14496-12, 12.1.5), as a PNG's cICP of the decoded picture; or nothing."""
    said = head.partition(b"colrnclx")[2]
    if len(said) < 4:
        return b""
    primaries, transfer = struct.unpack(">HH", said[:4])
    # 2: nobody said, which is sRGB in this format.
    return bytes([1 if primaries == 2 else min(primaries, 255), 13 if transfer == 2 else min(transfer, 255), 0, 1])


def _misleading(kind: bytes, data: bytes) -> bool:
    keyword = data.partition(b"\0")[0]
    return kind in _TEXTS and keyword.replace(b"_", b"").isalpha() and keyword.islower()


def _chunks(
    stream: IO[bytes], wanted: tuple[bytes, ...] | None, most: int | None
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, data, checksum) of a PNG's chunks; of those that are not wanted no data is read.

    most: bytes of data.
    """
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        place = stream.tell()
        read = wanted is None or kind in wanted
        data = stream.read(length if most is None else min(length, most)) if read else b""
        stream.seek(place + length)
        yield kind, data, stream.read(4)
        if kind == b"IEND":
            return


def _of_png(stream: IO[bytes]) -> Around:
    xmp = exif = profile = raw_exif = raw_xmp = b""
    colours = dict.fromkeys((b"cICP", b"sRGB", b"cHRM", b"gAMA"), b"")
    for kind, data, _ in _chunks(stream, (*_TEXTS, b"iCCP", b"eXIf", *colours), _LONGEST):
        keyword, _, rest = data.partition(b"\0")
        if kind in colours:
            colours[kind] = data
        if kind == b"iCCP":
            profile = _inflated(rest[1:]) or b"damaged"
        elif kind == b"eXIf":
            exif = b"Exif\0\0" + data
        elif kind == b"iTXt" and keyword == b"XML:com.adobe.xmp" and len(rest) > 2:
            text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
            xmp = _inflated(text) if rest[0] else text
        elif kind in (b"tEXt", b"zTXt") and keyword in (b"Raw profile type xmp", b"Raw profile type exif"):
            # As ImageMagick and older ExifTool wrote them: a name, a length, and hexadecimal digits.
            text = _inflated(rest[1:]) if kind == b"zTXt" else rest
            raw = _unhexed(text)
            raw_xmp, raw_exif = (raw, raw_exif) if keyword.endswith(b"xmp") else (raw_xmp, raw)
    cicp, srgb, chrm, gama = colours.values()
    told = ""
    if cicp or not profile:
        made, told = profile_of(Chunks(cicp=cicp, srgb=bool(srgb), chrm=chrm, gama=gama))
        profile = made or (b"" if cicp and not told else profile)
    return Around(xmp=xmp or raw_xmp, exif=exif or raw_exif, profile=profile, told="" if profile else told)


def _inflated(data: bytes) -> bytes:
    """Nothing if it is damaged or becomes too long."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, _LONGEST)
    except zlib.error:
        return b""
    return b"" if unpacker.unconsumed_tail else unpacked


def _unhexed(text: bytes) -> bytes:
    try:
        return bytes.fromhex("".join(text.decode("ascii").strip().split("\n")[2:]))
    except ValueError:
        return b""


def _extended(segments: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Extended XMP by its name, of a JPEG's segments: XMP specification part 3, 1.1.3.1. None that is incomplete."""
    parts: dict[str, dict[int, bytes]] = {}
    lengths: dict[str, int] = {}
    for marker, data in segments:
        at = len(_EXTENSION)
        if marker != "APP1" or not data.startswith(_EXTENSION) or len(data) < at + 40:
            continue
        name = data[at : at + 32].decode("latin-1")
        length, offset = struct.unpack(">II", data[at + 32 : at + 40])
        lengths[name] = length
        parts.setdefault(name, {})[offset] = data[at + 40 :]
    found = {}
    for name, pieces in parts.items():
        whole = b"".join(pieces[offset] for offset in sorted(pieces))
        digest = hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()
        if len(whole) == lengths[name] and digest == name.upper():
            found[name] = whole
    return found
