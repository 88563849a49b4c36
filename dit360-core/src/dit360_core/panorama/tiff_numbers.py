"""What the numbers of a TIFF file's pixels are, where they are none that is read.

Tags: TIFF 6.0 (Adobe, 1992), section 8 "Baseline Field Reference" and section 19 "Data Sample Format".
"""

from __future__ import annotations

from typing import IO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

_BITS, _CHANNELS, _SAMPLE_FORMAT = 258, 277, 339
_SIGNED, _FLOATS = 2, 3
_HEAD = {False: 8, True: 16}
"""Bytes before the first directory: of TIFF, and of BigTIFF."""


def why_not_read(stream: IO[bytes]) -> str:
    """What the pixels of a TIFF file are that is not read, and what to do, to follow the file's name.

    stream: of the file, whose first directory can be read.
    """
    tags = _tags(stream)
    bits, channels, form = (_largest(tags.get(tag)) for tag in (_BITS, _CHANNELS, _SAMPLE_FORMAT))
    if form == _FLOATS:
        return f"its pixels are floating-point numbers of {bits} bits; save it with 16 bits a channel, or as OpenEXR"
    if form == _SIGNED:
        return f"its pixels are signed numbers of {bits} bits; save it with 16 bits a channel, unsigned"
    if bits > 16:
        return f"it has {bits} bits a channel; save it with 16, or as OpenEXR"
    if 8 < bits < 16:
        return f"it has {bits} bits a channel; save it with 8 or 16"
    if channels == 2:
        return f"it is grey with transparency, of {bits} bits a channel; save it as PNG, or in RGB"
    several = "" if channels == 1 else "s"
    return f"it has {channels} channel{several} of {bits} bits of a kind that is not read; save it as RGB"


def _largest(told: object) -> int:
    """Of the numbers that a tag holds, one for each channel or one for all; 1 where it holds none, as TIFF has it."""
    return max(
        (number for number in (told if isinstance(told, tuple) else (told,)) if isinstance(number, int)), default=1
    )


def _tags(stream: IO[bytes]) -> ImageFileDirectory_v2:
    stream.seek(0)
    head = stream.read(_HEAD[False])
    if b"+" in head[2:4]:
        head += stream.read(_HEAD[True] - len(head))
    tags = ImageFileDirectory_v2(head)
    stream.seek(tags.next)
    tags.load(stream)
    return tags
