"""The picture that dit360 makes: saved and opened with its settings, turned, looked into, judged."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import struct
import tempfile
import warnings
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from dit360_core.atomic import NameTaken, check_writable, names_beside, write_atomic
from dit360_core.errors import Dit360Error, InputError
from dit360_core.metadata import build_xmp, parse_xmp, to_json

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from dit360_core.metrics import Poles, Seam

#: File name suffix → Pillow's name of the format.
FORMATS: Mapping[str, str] = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".png": "PNG"}

#: The longest side, in pixels, that a format (or its library) can hold.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "PNG": 2**31 - 1}


def _plain_json(settings: Mapping[str, object]) -> Mapping[str, object]:
    """An independent copy, equal to what a saved file gives back (tuples are lists, keys are text)."""
    copy: Mapping[str, object] = json.loads(to_json(dict(settings)))
    return copy


@attrs.frozen(eq=False, repr=False)
class Panorama:
    """An equirectangular 360° × 180° picture and the settings that it was made with.

    image: RGB, twice as wide as high. Column centres run over the longitudes −180° … 180° from left to right,
    row centres over the latitudes 90° … −90° from top to bottom; the middle column is straight ahead (yaw 0),
    yaw grows to the right, pitch upwards.
    settings: anything that JSON can hold; kept as an independent copy. Text under ``"prompt"`` is the
    viewer's caption.

    Raises InputError if the image is not RGB or not 2:1, or if the settings are not JSON.
    """

    image: Image.Image = attrs.field()
    settings: Mapping[str, object] = attrs.field(factory=dict, converter=_plain_json)

    @image.validator
    def _check_image(self, _: attrs.Attribute[Image.Image], image: Image.Image) -> None:
        if image.mode != "RGB":
            raise InputError(f"A panorama is an RGB picture, but this one is {image.mode}; use image.convert('RGB').")
        if image.width != 2 * image.height:
            raise InputError(
                f"A panorama is twice as wide as high, but this picture is {image.width}×{image.height}; "
                "crop or resize it to 2:1."
            )

    def __repr__(self) -> str:
        return f"<Panorama {self.width}×{self.height}, settings: {', '.join(self.settings) or 'none'}>"

    @property
    def width(self) -> int:
        """Columns, in pixels: 360°."""
        return self.image.width

    @property
    def height(self) -> int:
        """Rows, in pixels: 180°."""
        return self.image.height

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size

    @property
    def seam(self) -> Seam:
        """How well the left edge continues the right one: see metrics.seam_ratio for what is good."""
        from dit360_core import metrics

        return metrics.seam(_pixels(self.image))

    @property
    def poles(self) -> Poles:
        """How constant the first and the last row are: see metrics.pole_constancy for what is good."""
        from dit360_core import metrics

        return metrics.pole_constancy(_pixels(self.image))

    def roll(self, degrees: float) -> Panorama:
        """The panorama after the viewer has turned right: what was seen at yaw ``degrees`` is now straight ahead.

        The turn is rounded to whole columns (360°/width each); no pixel changes, turning back restores the
        picture bit for bit. The settings stay. Raises InputError if ``degrees`` is not finite.
        """
        from PIL import Image

        from dit360_core import metrics

        image = Image.fromarray(metrics.yaw(_pixels(self.image), degrees))
        image.info.update(self.image.info)
        return attrs.evolve(self, image=image)

    def perspective(
        self, yaw: float = 0.0, pitch: float = 0.0, fov: float = 90.0, width: int = 1024, height: int = 768
    ) -> Image.Image:
        """What a camera inside the panorama sees: straight lines of the world are straight.

        yaw, pitch: where it looks, in degrees, to the right and upwards. fov: field of view in degrees over
        the longer side, above 0 and below 180. width, height: pixels of the result. Bilinear in sRGB values,
        sampled several times a pixel where the panorama is finer than the result; continuous over the ±180°
        meridian and the poles.

        Raises InputError if a number is out of its range.
        """
        if not (math.isfinite(yaw) and math.isfinite(pitch)):
            raise InputError(f"A camera cannot look at yaw {yaw} and pitch {pitch}; give finite numbers of degrees.")
        if not 0 < fov < 180:
            raise InputError(f"A field of view of {fov} degrees is none; give one above 0 and below 180.")
        if width < 1 or height < 1:
            raise InputError(f"A view of {width}×{height} pixels is empty; give a width and a height of at least 1.")
        from PIL import Image
        from py360convert import e2p

        tangent = 2 * math.tan(math.radians(fov) / 2) / max(width, height)  # of the angle of one pixel, straight ahead
        # More source columns than pixels in that angle would be skipped by bilinear sampling, and shimmer.
        finer = min(4, max(1, math.ceil(self.width / (2 * math.pi) * tangent)))
        # e2p puts the first and last pixel's *centres* on the edges of the field of view; a camera puts their
        # outer edges there.
        horizontal, vertical = (
            2 * math.degrees(math.atan(tangent / 2 * (side - 1 / finer))) for side in (width, height)
        )
        pixels = e2p(
            _pixels(self.image),
            fov_deg=(horizontal, vertical),
            u_deg=math.remainder(yaw, 360),
            v_deg=math.remainder(pitch, 360),
            out_hw=(height * finer, width * finer),
        )
        return Image.fromarray(pixels).reduce(finer)

    def save(self, path: str | PathLike[str], *, quality: int = 95, force: bool = False) -> Path:
        """Writes the picture with its GPano metadata and settings; returns the path.

        path: the suffix says the format: .jpg, .jpeg (4:4:4, no colour subsampling), .webp (lossy, always
        4:2:0) or .png (lossless). quality: 1 … 100, for JPEG and WebP. force: replace an existing file.

        The file is whole or not there: it is written beside its place and put there in one step. Metadata has
        room for 65 502 bytes: longer settings (a prompt of many thousand words) have their longest texts cut
        and marked, in the file only; see metadata.build_xmp.

        Raises InputError if the suffix is unknown, the quality out of range, the picture too large for the
        format, the file exists and ``force`` is not given, or its folder is missing or not writable;
        Dit360Error if writing fails later, as on a full disk.
        """
        path = Path(path)
        format_name = check_save(path, force=force)
        data = encoded(self, format_name, quality)
        with write_atomic(path, force=force) as file:
            file.write(data)
        return path

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Panorama:
        """Reads a JPEG, PNG or WebP panorama, and its settings where dit360 wrote it; of others they are empty.

        Transparency is dropped; a colour profile is kept and saved again. Metadata that cannot be read is
        told by a warning and leaves the settings empty.

        Raises InputError if the file is missing, not such a picture, truncated, not 2:1, or has more pixels
        than Pillow opens safely (``PIL.Image.MAX_IMAGE_PIXELS``).
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        path = Path(path)
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            # Opening a pipe waits until somebody writes to it, and a device may never end.
            raise InputError(f"Cannot open {path}: it is a device or a pipe, and no file; save the picture first.")
        try:
            # Only what we write ourselves: other decoders of Pillow start programs (EPS) or are little used.
            with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as file:
                file.load()
                packet = file.info.get("xmp", b"")
                upright = ImageOps.exif_transpose(file)
        except FileNotFoundError as error:
            raise InputError(f"Cannot open {path}: there is no such file; check the name.") from error
        except IsADirectoryError as error:
            raise InputError(f"Cannot open {path}: it is a folder; name the picture in it.") from error
        except UnidentifiedImageError as error:
            raise InputError(f"Cannot open {path}: it is not a JPEG, PNG or WebP picture; convert it first.") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(
                f"Cannot open {path}: it has more pixels than is safe ({error}); "
                "resize it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
            ) from error
        # Damaged files make Pillow's decoders raise all of these.
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise InputError(
                f"Cannot open {path}: the picture is damaged or cannot be read ({error}); make or download it again."
            ) from error
        if upright.mode.startswith(("I", "F")):
            raise InputError(f"Cannot open {path}: it has over 8 bits a channel ({upright.mode}); convert it to RGB.")
        image = upright.convert("RGB")
        # What is left in `info` would be written again by Pillow, comments and orientation among it. A
        # profile of grey or CMYK describes other channels than the picture now has.
        profile = image.info.get("icc_profile") if upright.mode in ("RGB", "RGBA", "P") else None
        image.info = {"icc_profile": profile} if profile else {}
        settings: Mapping[str, object] = {}
        if packet:
            try:
                settings = parse_xmp(packet).settings
            except InputError as error:
                warnings.warn(f"{path} opens without its settings: {error}", stacklevel=2)
        try:
            return cls(image, settings)
        except InputError as error:
            raise InputError(f"Cannot open {path}: {error}") from error

    def view(self, path: str | PathLike[str] | None = None, open_browser: bool = True, *, force: bool = False) -> Path:
        """Writes an HTML page to look around in (one file, works offline) and opens it; returns its path.

        path: where; without it, a new folder among the temporary files. force: replace an existing file.
        Raises InputError or Dit360Error as save does. A browser that cannot be started is told by a warning.
        """
        from dit360_core.viewer import write_viewer

        if path is None:
            try:
                path = Path(tempfile.mkdtemp(prefix="dit360-")) / "panorama.html"
            except OSError as error:
                raise Dit360Error(
                    f"No temporary folder can be made ({error.strerror or error}); say where to write the page."
                ) from error
        page = write_viewer(self, Path(path), force=force)
        if open_browser and not webbrowser.open(page.resolve().as_uri()):
            warnings.warn(f"No browser could be started; open {page} yourself.", stacklevel=2)
        return page

    def _repr_jpeg_(self) -> bytes:
        """For notebooks: at most 1024 pixels wide. JPEG only: a notebook stores every representation it gets."""
        image = self.image.reduce(math.ceil(self.width / 1024))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, icc_profile=self.image.info.get("icc_profile"))
        return buffer.getvalue()


def check_save(path: str | PathLike[str], *, force: bool = False) -> str:
    """Raises what Panorama.save would raise for this path, so that it is told before a picture is made.

    Returns the format, in Pillow's words: JPEG, WEBP or PNG.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"Cannot write {path}: the suffix says no known format; end it in {', '.join(FORMATS)}.")
    check_writable(path, force=force)
    return FORMATS[path.suffix.lower()]


def rescue(panorama: Panorama, path: Path) -> Path | None:
    """Saves a picture that took long to make and could not be saved as ``path``; returns where it now is.

    That is beside it, under the first free name (``name-2.jpg``), if another program took the name; otherwise, or if
    that does not work either, a new folder among the temporary files. None: nowhere.
    """
    with contextlib.suppress(Dit360Error):
        for name in itertools.islice(names_beside(path, path.suffix), 98):
            with contextlib.suppress(NameTaken):
                return panorama.save(name)
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="dit360-"))
        try:
            return panorama.save(folder / f"panorama{path.suffix}")
        except Dit360Error:
            folder.rmdir()
    return None


def saved_settings(path: Path) -> Mapping[str, object]:
    """The settings in a picture file, without decoding the picture; empty if it is none, or holds none of ours."""
    from PIL import Image

    try:
        with Image.open(path, formats=tuple(set(FORMATS.values()))) as file:
            return parse_xmp(file.info.get("xmp", b"")).settings
    except (InputError, OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return {}


def encoded(panorama: Panorama, format_name: str, quality: int) -> bytes:
    """The bytes of a picture file with its metadata. Raises InputError: quality out of range, picture too large.

    format_name: in Pillow's words, as in FORMATS.
    """
    from PIL import PngImagePlugin

    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"A quality of {quality} is none; give a whole number from 1 to 100.")
    if panorama.width > _LONGEST_SIDE[format_name]:
        raise InputError(
            f"{format_name} holds at most {_LONGEST_SIDE[format_name]} pixels a side, but the panorama is "
            f"{panorama.width} wide; save it as .png."
        )
    packet = build_xmp(panorama.width, panorama.height, panorama.settings)
    profile = panorama.image.info.get("icc_profile")
    buffer = io.BytesIO()
    if format_name == "PNG":
        # Pillow drops `xmp` for PNG without a word. The chunk's name and being uncompressed are from the XMP
        # standard.
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet, zip=False)
        panorama.image.save(buffer, "PNG", pnginfo=chunks, icc_profile=profile)
    elif format_name == "WEBP":
        panorama.image.save(buffer, "WEBP", quality=quality, xmp=packet, icc_profile=profile)
    else:
        panorama.image.save(buffer, "JPEG", quality=quality, subsampling=0, xmp=packet, icc_profile=profile)
    return buffer.getvalue()


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    import numpy as np

    return np.asarray(image)
