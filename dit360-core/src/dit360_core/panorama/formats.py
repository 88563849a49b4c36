"""What a panorama can be saved as: endings, bits, and the libraries that some of it takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import attrs
from packaging.version import InvalidVersion, Version
from PIL import features

from dit360_core.errors import InputError, named, setting
from dit360_core.system.installed import installed_version

CORE = "dit360-core"


@attrs.frozen(kw_only=True)
class Library:
    """What a format needs beside the core.

    module: its name for Python.
    distribution: its name for pip.
    floor: the oldest version that has what is used of it.
    extra: of the core, which brings it.
    """

    module: str
    distribution: str
    floor: str
    extra: str


OPENEXR = Library(module="OpenEXR", distribution="OpenEXR", floor="3.5", extra="exr")
TIFFFILE = Library(module="tifffile", distribution="tifffile", floor="2024.8.10", extra="tiff")


@attrs.frozen(kw_only=True)
class Format:
    """A kind of file.

    bits: a channel, that which is taken unasked first.
    longest: pixels of the longest side that it, or its library, can hold.
    writes: the library that writes it; None: the core itself and Pillow.
    """

    bits: tuple[int, ...] = (8,)
    longest: int = 2**31 - 1
    writes: Library | None = None


#: Ending of a file's name → the format's name, Pillow's where it has one.
FORMATS: Mapping[str, str] = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".png": "PNG", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF",
    ".exr": "EXR",
}  # fmt: skip

BY_NAME: Mapping[str, Format] = {
    "JPEG": Format(longest=65_500),
    "WEBP": Format(longest=16_383),
    "PNG": Format(bits=(8, 16)),
    # The widest 2:1 picture of the 16384² pixels that AVIF's library decodes.
    "AVIF": Format(longest=23_168),
    "TIFF": Format(bits=(16,), writes=TIFFFILE),
    "EXR": Format(bits=(16,), writes=OPENEXR),
}


PLAIN: Mapping[str, str] = {ending: name for ending, name in FORMATS.items() if 8 in BY_NAME[name].bits}
"""The same of those that are written with 8 bits a channel."""


@attrs.frozen(kw_only=True)
class Saving:
    """How files are written, beside their format.

    quality: 1 … 100, of those that lose something.
    bits: a channel; None: those that a format has unasked.
    expand_highlights: beyond white, in OpenEXR.
    """

    quality: int = 95
    bits: int | None = None
    expand_highlights: bool = False


def format_of(path: str | PathLike[str]) -> str:
    """The name of the format that a file's ending says. Raises InputError for an ending of no format."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"Cannot write {path}: the suffix says no known format; end it in {', '.join(FORMATS)}.")
    return FORMATS[ending]


def check_format(name: str, *, bits: int | None = None, expand_highlights: bool = False) -> None:
    """Raises InputError if a picture cannot be written so here: the bits, the highlights, a library that is missing.

    name: of the format, a key of BY_NAME.
    bits: a channel; None: those that the format has unasked.
    expand_highlights: highlights beyond white, which OpenEXR alone holds.
    """
    possible = BY_NAME[name].bits
    if bits is not None and (isinstance(bits, bool) or bits not in possible):
        # A number of thousands of digits has no words in Python.
        shown = str(bits) if not isinstance(bits, int) or abs(bits) < 10**6 else "so many"
        others = "; for 16, save it as .png, .tif or .exr" if bits == 16 else ""
        raise InputError(
            f"{name} is written with {' or '.join(map(str, possible))} bits a channel, not with "
            f"{setting('bits', shown)}{others}."
        )
    if expand_highlights and name != "EXR":
        raise InputError(
            f"{named('expand_highlights')} has no effect in {name}, which holds nothing brighter than white; save the "
            "picture as .exr."
        )
    if name == "AVIF" and not features.check("avif"):
        raise InputError(
            "AVIF needs a Pillow that was built with it, and this one was not; pip install --upgrade "
            "--force-reinstall pillow, or save the picture as .webp."
        )
    library = BY_NAME[name].writes
    if library is not None:
        check_library(library, f"Writing {name}")


def check_library(library: Library, doing: str) -> None:
    """Raises InputError with the command for pip if a library is missing, too old, or cannot be imported.

    doing: what it is needed for, with which the sentence begins.
    """
    command = f'pip install "{CORE}[{library.extra}]"'
    try:
        importlib.import_module(library.module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == library.module:
            raise InputError(f"{doing} needs {library.distribution}, which is not installed; {command}.") from error
        raise InputError(
            f"{doing} needs {library.distribution}, which cannot be imported ({error}); repair it: {command}."
        ) from error
    found = installed_version(library.distribution)
    try:
        old = found is not None and Version(found) < Version(library.floor)
    except InvalidVersion:  # of a build of one's own, which is taken for what is needed
        old = False
    if old:
        raise InputError(
            f"{doing} needs {library.distribution} {library.floor} or newer, and {found} is installed; "
            f"{command} --upgrade."
        )
