"""The picture that dit360 makes: saved and opened with its settings, turned, looked into, judged."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import warnings
import webbrowser
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, PngImagePlugin

from dit360_core.errors import Dit360Error, InputError, named
from dit360_core.options.numerals import pythons
from dit360_core.panorama import metrics
from dit360_core.panorama.colours import to_srgb
from dit360_core.panorama.cubemaps import check_faces, check_size, check_width, layout_of
from dit360_core.panorama.deep_png import deep_png
from dit360_core.panorama.exr import exr_of
from dit360_core.panorama.formats import BY_NAME, check_format, format_of
from dit360_core.panorama.gpano import MADE, Area, Pose, place, read_pose
from dit360_core.panorama.levels import Floats, eight_bits, eight_of, floats_of, sixteen_bits
from dit360_core.panorama.metadata import Metadata, build_xmp, to_json
from dit360_core.panorama.metrics import Blocks, Poles, Seam
from dit360_core.panorama.opening import alpha_of, check_pixels, read_metadata, read_picture
from dit360_core.panorama.tiff import deep_tiff
from dit360_core.panorama.viewer import About, looking, write_page
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.size import panorama_height
from dit360_core.system.atomic import check_writable, saved_elsewhere, write_atomic

TOLD = "exported"
"""Under which name settings tell what a picture was exported from."""
_EXPORTS = {
    "view": ("a view of a panorama", "give that"),
    "little-planet": ("a little planet of a panorama", "give that"),
    "faces": ("a face of a cube map", "import the six of them first"),
    "cross": ("a cube map", "import it first"),
    "strip": ("a cube map", "import it first"),
}
"""What was exported is, and what to do where a panorama is meant."""


def _plain_json(settings: Mapping[str, object]) -> Mapping[str, object]:
    """An independent copy, equal to what a saved file gives back (tuples are lists, keys are text)."""
    copy: Mapping[str, object] = json.loads(to_json(dict(settings)))
    return copy


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture without its colour profile, which it was converted from."""
    profile = getattr(image, "info", {}).get("icc_profile")
    if not profile or image.mode != "RGB":
        return image
    converted, _, unused = to_srgb(image, profile)
    if unused:
        warnings.warn(f"A picture's colour profile is not used, and it is taken for sRGB: {unused}.", stacklevel=4)
    converted = converted.copy() if converted is image else converted
    converted.info = {name: value for name, value in image.info.items() if name != "icc_profile"}
    return converted


def _floats(given: object) -> object:
    return (
        given.astype(np.float32) if isinstance(given, np.ndarray) and given.dtype in (np.float16, np.float64) else given
    )


@attrs.frozen(eq=False, repr=False)
class Panorama:
    """An equirectangular 360° × 180° picture and the settings that it was made with.

    image: RGB, twice as wide as high. Column centres run over the longitudes −180° … 180° from left to right, row
    centres over the latitudes 90° … −90° from top to bottom; the middle column is straight ahead (yaw 0), yaw grows to
    the right, pitch upwards. In sRGB: a colour profile in ``image.info`` is converted from.
    settings: anything that JSON can hold; kept as an independent copy. Text under ``"prompt"`` is the viewer's caption.
    pose: which way it looks in the world, and where a viewer is to look first; saved with it.
    area: the part of the sphere that is shown, the rest of the image being black; None: all. A part is saved as a part.
    coded: the blocks of the lossy file that it was read from.
    profile: the name of the colour profile that it was converted from.
    file: the name of the file that it was read from, without its folder.
    hole: white (mode L, 255) where the file that it was read from was transparent; None: nowhere. It is not saved.
    floats: the same colours before they were rounded to the image's 8 bits, ``(H, W, 3)`` in 0 … 1, coded as sRGB;
    None: not known. Files with more than 8 bits a channel are written of them. A picture that was made, and one that
    was read from a file of 16 bits or OpenEXR, has them: 12 bytes a pixel beside the image's 3, and of what was made
    they are the decoder's own numbers and no copy. Who keeps many drops them: ``attrs.evolve(panorama, floats=None)``.
    precision: of the file that it was read from, in words, where it has more than 8 bits.

    Raises InputError if the image is not RGB or not 2:1, if the settings are not JSON, or if the floats are of another
    size than the image.
    """

    image: Image.Image = attrs.field(converter=_in_srgb)
    settings: Mapping[str, object] = attrs.field(factory=dict, converter=_plain_json)
    pose: Pose = attrs.field(default=MADE, kw_only=True)
    area: Area | None = attrs.field(default=None, kw_only=True)
    coded: Blocks | None = attrs.field(default=None, kw_only=True)
    profile: str = attrs.field(default="", kw_only=True)
    file: str = attrs.field(default="", kw_only=True)
    hole: Image.Image | None = attrs.field(default=None, kw_only=True)
    floats: Floats | None = attrs.field(default=None, kw_only=True, converter=_floats)
    precision: str = attrs.field(default="", kw_only=True)

    @floats.validator
    def _check_floats(self, _: attrs.Attribute[Floats | None], floats: Floats | None) -> None:
        if floats is None:
            return
        height, width = self.image.height, self.image.width
        if not isinstance(floats, np.ndarray) or floats.shape != (height, width, 3) or floats.dtype != np.float32:
            told = f"{floats.shape} {floats.dtype}" if isinstance(floats, np.ndarray) else type(floats).__name__
            raise InputError(
                f"The floats of a panorama are an array ({height}, {width}, 3) of float32, as its image is, but these "
                f"are {told}; leave them out, or make both anew."
            )

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
    def closes(self) -> bool:
        """Whether both edges at the ±180° meridian are shown, so that a seam can be."""
        return self.area is None or self.area.width == self.width

    @property
    def seam(self) -> Seam:
        """How well the left edge continues the right one: see metrics.seam_ratio for what is good.

        Of a picture that was opened from a JPEG or a lossy WebP file, the step at the meridian is compared with those
        at the edges of the file's blocks, as it is one. Raises InputError if the meridian is not shown.
        """
        if not self.closes:
            raise InputError("A part of a panorama that does not go all around has no seam; measure a whole one.")
        rows = slice(0, self.height) if self.area is None else slice(self.area.top, self.area.top + self.area.height)
        return metrics.seam(_pixels(self.image)[rows], self.coded)

    @property
    def poles(self) -> Poles:
        """How constant the first and the last row are: see metrics.pole_constancy for what is good."""
        return metrics.pole_constancy(_pixels(self.image))

    def roll(self, degrees: float) -> Panorama:
        """The panorama after the viewer has turned right: what was seen at yaw ``degrees`` is now straight ahead.

        The turn is rounded to whole columns (360°/width each); no pixel changes, turning back restores the
        picture bit for bit. The settings stay, and the pose's heading turns with it. Raises
        InputError if ``degrees`` is not finite.
        """
        image = Image.fromarray(metrics.yaw(_pixels(self.image), degrees))
        image.info.update(self.image.info)
        columns = round(math.fmod(degrees, 360) / 360 * self.width)
        area, coded = self.area, self.coded
        return attrs.evolve(
            self,
            image=image,
            pose=self.pose.turned(columns / self.width * 360),
            area=area and attrs.evolve(area, left=(area.left - columns) % self.width),
            coded=coded and attrs.evolve(coded, turned=(coded.turned + columns) % self.width),
            file="",
            hole=self.hole and ImageChops.offset(self.hole, -columns, 0),
            floats=None if self.floats is None else metrics.yaw(self.floats, degrees),
        )

    def perspective(
        self,
        yaw: float = 0.0,
        pitch: float = 0.0,
        fov: float = 90.0,
        width: int = 1024,
        height: int = 768,
        *,
        roll: float = 0.0,
    ) -> Image.Image:
        """What a camera inside the panorama sees: straight lines of the world are straight.

        yaw, pitch: where it looks, in degrees, to the right and upwards.
        fov: field of view in degrees over the longer side, above 0 and below 180.
        width, height: pixels of the result. Bicubic in sRGB values, sampled several times a pixel where the panorama
        is finer than the result; continuous over the ±180° meridian and the poles.
        roll: degrees by which the camera is turned clockwise, seen from behind it.

        Raises InputError if a number is out of its range.
        """
        camera = Camera(width=width, height=height, fov=fov, yaw=yaw, pitch=pitch, roll=roll)
        # Not py360convert's bilinear e2p: tests/core/test_projecting.py measures both against an analytic sphere. Where
        # that is smooth they are alike; with finer detail this one is some 10 dB nearer, at the meridian and the poles
        # as elsewhere.
        from dit360_core.panorama.projecting import view  # with torch

        return view(self.image, camera)

    def faces(self, size: int | None = None, layout: str = "plain") -> dict[str, Image.Image]:
        """The six faces of a cube map, by their names and in the order of a strip.

        size: the side of a face, in pixels; None: what loses nothing, ``sphere.cube.face_size``.
        layout: whose names and turns: ``plain``, ``threejs``, ``unity``, ``unreal`` or ``godot``.

        Raises InputError for a part of a panorama, a layout that there is not, or a size that is none.
        """
        of = layout_of(layout)
        self._check_whole()
        # With torch.
        from dit360_core.panorama import projecting

        side = projecting.face_size(self.height) if size is None else size
        check_size(side)
        made = dict(zip(of.faces, projecting.faces(self.image, side, of.axes), strict=True))
        return {name: made[name] for name in of.row}

    @classmethod
    def from_faces(
        cls,
        faces: Mapping[str, Image.Image],
        layout: str = "plain",
        width: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> Panorama:
        """A panorama from the six faces of a cube map.

        faces: by their names in the layout; square, all of one size. Transparency is left out, and a warning tells it.
        layout: whose names and turns they have, as for :meth:`faces`.
        width: pixels of the panorama, even; None: as fine as the faces are in their middle,
        ``2 * sphere.size.panorama_height``.
        settings: of the panorama.

        Raises InputError if a face is missing, no picture, of floating-point numbers or not as the others are, for a
        layout that there is not, or a width that is none.
        """
        of = layout_of(layout)
        size = check_faces(faces, of)
        clear = [name for name in of.faces if alpha_of(faces[name]) is not None]
        if clear:
            warnings.warn(
                f"The transparency of {', '.join(clear)} is left out, which a panorama has not.", stacklevel=2
            )
        six = [_in_srgb(eight_of(faces[name], f"The face {name}")).convert("RGB") for name in of.faces]
        # With torch.
        from dit360_core.panorama import projecting

        wide = 2 * panorama_height(size) if width is None else width
        check_width(wide)
        return cls(projecting.from_faces(six, wide // 2, of.axes), settings or {})

    def little_planet(self, fov: float = 270.0, yaw: float = 0.0, size: int | None = None) -> Image.Image:
        """The panorama as a planet seen from above, in a stereographic projection: the ground in the middle.

        fov: degrees over the picture's side, above 0 and below 360.
        yaw: degrees; what lies there is at the top.
        size: the side of the picture, in pixels; None: what loses nothing, ``sphere.planet.planet_size``.

        Raises InputError for a part of a panorama, or if a number is out of its range.
        """
        self._check_whole()
        if not math.isfinite(yaw):
            raise InputError(f"{named('yaw')} is {yaw}, but must be a number of degrees.")
        # With torch.
        from dit360_core.panorama import projecting

        side = projecting.planet_size(self.height, fov) if size is None else size
        check_size(side)
        return projecting.little_planet(self.image, side, fov, yaw)

    def _check_whole(self) -> None:
        if self.area is not None:
            raise InputError(
                f"Only a whole panorama has other projections, but {in_words(self)}, and the rest is black; fill it up "
                f"first, by giving it as {named('photo')} to generate."
            )

    def save(
        self,
        path: str | PathLike[str],
        *,
        quality: int = 95,
        bits: int | None = None,
        expand_highlights: bool = False,
        force: bool = False,
    ) -> Path:
        """Writes the picture with its GPano metadata and settings; returns the path.

        path: the suffix says the format: .jpg, .jpeg (4:4:4, no colour subsampling), .webp (lossy, always 4:2:0), .avif
        (lossy, 4:4:4), .png (lossless), .tif, .tiff (lossless, 16 bits) or .exr (half floats in linear light).
        quality: 1 … 100, for JPEG, WebP and AVIF.
        bits: a channel, 8 or 16 for PNG; None: 8, and 16 in TIFF and OpenEXR, which have no others.
        expand_highlights: in OpenEXR, make bright parts brighter than white (:func:`light.expand_highlights`).
        force: replace an existing file.

        More than 8 bits are of ``floats``. The file is whole or not there: it is written beside its place and put there
        in one step. Metadata has room for 65 502 bytes: longer settings (a prompt of many thousand words) have their
        longest texts cut and marked, in the file only; see metadata.build_xmp. A picture without floats, or whose image
        was changed beside them, is written of its 8 bits, and a warning tells it.

        Raises InputError if the suffix is unknown, the quality out of range, the picture too large for the
        format, the format cannot hold what is asked or needs a library that is missing, the file exists and
        ``force`` is not given, or its folder is missing or not writable; Dit360Error if writing fails later, as on a
        full disk.
        """
        path = Path(path)
        format_name = check_save(path, force=force, bits=bits, expand_highlights=expand_highlights)
        data = encoded(self, format_name, quality, bits=bits, expand_highlights=expand_highlights)
        with write_atomic(path, force=force) as file:
            file.write(data)
        return path

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Panorama:
        """Reads a panorama, and its settings where dit360 wrote it; of others they are empty.

        path: of a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR file.

        What has more than 8 bits a channel is kept in ``floats``, OpenEXR's light as far as a screen shows it.
        Transparency is kept as ``hole`` alone, a colour profile converted to sRGB, EXIF's orientation applied. GPano
        properties give the pose, and the place of a part of a panorama: it lies on a black sphere, and ``area`` tells
        where. What of the metadata cannot be used is told by a warning.

        Raises InputError if the file is missing, not such a picture, truncated, of another projection, neither 2:1 nor
        told to be a part of a panorama, or has more pixels than are opened unasked (twice
        ``PIL.Image.MAX_IMAGE_PIXELS``, or the environment variable DIT360_MAX_PIXELS).
        """
        return open_file(path)[0]

    @classmethod
    def open_whole(cls, path: str | PathLike[str]) -> Panorama:
        """As :meth:`open`, for whoever begins with the picture.

        path: as for :meth:`open`.

        Raises InputError for a part of a panorama as well.
        """
        panorama = cls.open(path)
        if panorama.area is not None:
            raise InputError(
                f"Cannot begin with {path}: {in_words(panorama)}, and the rest is black; give it as {named('photo')}, "
                "and the rest is made."
            )
        return panorama

    def view(
        self,
        path: str | PathLike[str] | None = None,
        open_browser: bool = True,
        *,
        yaw: float | None = None,
        pitch: float | None = None,
        fov: float | None = None,
        file: str | PathLike[str] | None = None,
        data: bytes | None = None,
        force: bool = False,
    ) -> Path:
        """Writes an HTML page to look around in (one file, works offline) and opens it; returns its path.

        A brush in it paints a mask for ``generate(…, image=…, mask=…)``, and the page shows the command for that.

        path: where; without it, a new folder among the temporary files.
        open_browser: whether to open it.
        yaw: of its first view, in degrees to the right of the picture's middle, −360 … 360.
        pitch: of its first view, in degrees above the horizon, −90 … 90.
        fov: of its first view, in degrees over the longer side of the window, 20 … 120. None of these three: what the
        pose says. Where one is given, the view rests until it is touched.
        file: of the picture, whose name the command says; by default the one that it was read from.
        data: the bytes of the picture's file, if every browser shows the same of them and it is at most 4096 wide;
        None: it is written as JPEG.
        force: replace an existing file.

        Raises InputError if a number is out of its range, and InputError or Dit360Error as save does. A browser that
        cannot be started is told by a warning.
        """
        pose = looking(self.pose, yaw, pitch, fov)
        if path is None:
            try:
                path = Path(tempfile.mkdtemp(prefix="dit360-")) / "panorama.html"
            except OSError as error:
                raise Dit360Error(
                    f"No temporary folder can be made ({error.strerror or error}); say where to write the page."
                ) from error
        page = Path(path)
        picture = self if file is None else attrs.evolve(self, file=Path(file).name)
        said = attrs.evolve(about(picture), rests=(yaw, pitch, fov) != (None, None, None))
        write_page(page, self.image if data is None else data, self.size, pose, said, force=force)
        if open_browser and not webbrowser.open(page.resolve().as_uri()):
            warnings.warn(f"No browser could be started; open {page} yourself.", stacklevel=2)
        return page

    def _repr_jpeg_(self) -> bytes:
        """For notebooks: at most 1024 pixels wide. JPEG only: a notebook stores every representation it gets."""
        image = self.image.reduce(math.ceil(self.width / 1024))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def open_file(path: str | PathLike[str]) -> tuple[Panorama, bool]:
    """As Panorama.open; whether the file's very bytes show any browser the same picture comes with it."""
    path = Path(path)
    opened = read_picture(path)
    _check_no_export(path, opened.metadata)
    pose, unused = read_pose(opened.metadata.gpano)
    try:
        placed = place(opened.metadata.gpano, opened.image.size)
    except InputError as error:
        said = str(error)
        raise InputError(f"Cannot open {path}: {said if said.endswith('.') else f'{said}.'}") from error
    image, floats = opened.image, opened.floats
    if placed.area is not None:
        check_pixels(placed.size, f"Cannot open {path}: it is a part of a panorama that has")
        image = on_the_sphere(image, placed.size, placed.area)
        floats = None if floats is None else _floats_on_the_sphere(floats, placed.size, placed.area)
    for told in (*opened.told, *(f"opens, but {told}." for told in (*unused, *placed.told))):
        warnings.warn(f"{path} {told}", stacklevel=3)
    coded = opened.coded if placed.area is None or placed.area.width == placed.size[0] else None
    if opened.alpha is not None and placed.area is not None:
        warnings.warn(f"{path} opens without its transparency, as it is a part of a panorama.", stacklevel=3)
    hole = None if opened.alpha is None or placed.area is not None else ImageOps.invert(opened.alpha)
    panorama = Panorama(
        image,
        opened.metadata.settings,
        pose=pose,
        area=placed.area,
        coded=coded,
        profile=opened.profile,
        file=path.name,
        hole=hole,
        floats=floats,
        precision=opened.precision,
    )
    return panorama, opened.as_it_is and placed.area is None


def _check_no_export(path: Path, metadata: Metadata) -> None:
    """Raises InputError for a picture that dit360 made of a panorama: its shape may be that of one by chance."""
    exported = metadata.settings.get(TOLD)
    kind = exported.get("to") if isinstance(exported, Mapping) else None
    if isinstance(kind, str) and kind in _EXPORTS and not metadata.gpano:
        what, instead = _EXPORTS[kind]
        raise InputError(f"Cannot open {path}: it is {what}, and no panorama; {instead}.")


def check_save(
    path: str | PathLike[str],
    *,
    force: bool = False,
    bits: int | None = None,
    expand_highlights: bool = False,
    width: int | None = None,
) -> str:
    """Raises what Panorama.save would raise for this path, so that it is told before a picture is made.

    bits, expand_highlights: as for that.
    width: of the picture in pixels, where it is known.

    Returns the format, in Pillow's words: JPEG, WEBP, PNG, AVIF, TIFF, or EXR.
    """
    path = Path(path)
    format_name = format_of(path)
    check_format(format_name, bits=bits, expand_highlights=expand_highlights)
    check_held(format_name, width)
    check_writable(path, force=force)
    return format_name


def rescue(panorama: Panorama, path: Path, **how: Any) -> Path | None:
    """Saves a picture that took long to make and could not be saved as ``path``; returns where it now is.

    how: as it was to be saved, for Panorama.save.

    That is beside it, under the first free name (``name-2.jpg``), if another program took the name; otherwise, or if
    that does not work either, a new folder among the temporary files; and then the same as a PNG. None: nowhere.
    """
    found = saved_elsewhere(path, lambda name: panorama.save(name, **how))
    if found is not None or path.suffix.lower() == ".png":
        return found
    # Its format may be what failed, and a PNG holds every picture.
    bits = None if panorama.floats is None else 16
    beside = path.with_suffix(".png")
    with contextlib.suppress(Dit360Error):
        return panorama.save(beside, bits=bits)
    return saved_elsewhere(beside, lambda name: panorama.save(name, bits=bits))


def saved_settings(path: Path) -> Mapping[str, object]:
    """The settings in a picture file, without decoding the picture; empty if it is none, or holds none of ours."""
    return read_metadata(path).settings


def prompt_in(settings: Mapping[str, object]) -> str:
    """The prompt that a picture's settings tell; empty where they tell none."""
    prompt = settings.get("prompt")
    return prompt if isinstance(prompt, str) and prompt.strip() else ""


def caption_of(panorama: Panorama) -> str:
    """What the viewer says below a picture: its prompt, where it tells one."""
    return prompt_in(panorama.settings)


def about(panorama: Panorama, title: str = "360° panorama") -> About:
    """What the viewer's page says of a picture.

    title: of the page.
    """
    requested = panorama.settings.get("requested")
    model = requested.get("model") if isinstance(requested, dict) else None
    return About(
        title=title,
        caption=caption_of(panorama),
        file=panorama.file,
        model=model if isinstance(model, str) else "",
        part=panorama.area is not None,
    )


def in_words(panorama: Panorama) -> str:
    """What a part of a panorama shows: ``it is a part of a panorama (180°×60°, 3000×1000 pixels at …)``."""
    area = panorama.area or Area(left=0, top=0, width=panorama.width, height=panorama.height)
    across, down = 360 * area.width / panorama.width, 180 * area.height / panorama.height
    return (
        f"it is a part of a panorama ({across:.4g}°×{down:.4g}°, {area.width}×{area.height} pixels at {area.left}, "
        f"{area.top} of {panorama.width}×{panorama.height})"
    )


def encoded(
    panorama: Panorama, format_name: str, quality: int, *, bits: int | None = None, expand_highlights: bool = False
) -> bytes:
    """The bytes of a picture file with its metadata. Raises InputError: quality out of range, picture too large.

    format_name: in Pillow's words, as in formats.FORMATS.
    quality, bits, expand_highlights: as for Panorama.save.
    """
    check_quality(quality)
    check_format(format_name, bits=bits, expand_highlights=expand_highlights)
    area = panorama.area
    check_holds(format_name, panorama.size if area is None else (area.width, area.height), "the panorama")
    packet = build_xmp(*panorama.size, panorama.settings, pose=panorama.pose, area=area)
    if (bits or BY_NAME[format_name].bits[0]) > 8:
        return _deep(panorama, format_name, packet, expand_highlights)
    shown = panorama.image if area is None else _cut_out(panorama.image, area)
    return encoded_with(packet, shown, format_name, quality, "the panorama")


def encoded_with(packet: bytes, shown: Image.Image, format_name: str, quality: int, what: str) -> bytes:
    """The bytes of a picture file of 8 bits. Raises InputError: quality out of range, picture too large.

    packet: the XMP in it.
    shown: the picture, RGB.
    format_name: in Pillow's words, as in formats.PLAIN.
    quality: 1 … 100, for JPEG, WebP and AVIF.
    what: it is, for the error.
    """
    check_quality(quality)
    check_holds(format_name, shown.size, what)
    buffer = io.BytesIO()
    if format_name == "PNG":
        # Pillow drops `xmp` for PNG without a word. The chunk's name and being uncompressed are from the XMP
        # standard.
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet, zip=False)
        shown.save(buffer, "PNG", pnginfo=chunks, icc_profile=None)
    elif format_name == "WEBP":
        shown.save(buffer, "WEBP", quality=int(quality), xmp=packet)
    elif format_name == "AVIF":
        shown.save(buffer, "AVIF", quality=int(quality), subsampling="4:4:4", xmp=packet)
    else:
        shown.save(buffer, "JPEG", quality=int(quality), subsampling=0, xmp=packet)
    return buffer.getvalue()


def check_holds(format_name: str, size: tuple[int, int], what: str) -> None:
    """Raises InputError if a format cannot hold so large a picture.

    format_name: in Pillow's words, as in formats.FORMATS.
    size: (width, height) in pixels.
    what: it is, for the error.
    """
    longest = BY_NAME[format_name].longest
    if max(size) > longest:
        raise InputError(
            f"{format_name} holds at most {longest} pixels a side, but {what} is {max(size)} wide; save it as .png."
        )


def check_held(format_name: str, width: int | None) -> None:
    """Raises InputError if a format cannot hold a panorama.

    format_name: in Pillow's words, as in formats.FORMATS.
    width: in pixels; None: it is not known yet.
    """
    if width is not None:
        check_holds(format_name, (width, width // 2), "the picture")


def check_quality(quality: int) -> None:
    """Raises InputError unless it is a whole number from 1 to 100."""
    quality = pythons(quality)
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"A quality of {quality} is none; give a whole number from 1 to 100.")


def _deep(panorama: Panorama, format_name: str, packet: bytes, expand_highlights: bool) -> bytes:
    """A file of 16 bits a channel."""
    floats = panorama.floats
    if floats is None:
        warnings.warn(f"The picture has 8 bits a channel, and {format_name} holds no more of it.", stacklevel=4)
    elif not np.array_equal(eight_bits(floats), _pixels(panorama.image)):
        warnings.warn(
            "The picture was changed after it was made, in 8 bits a channel: these are saved, and no more.",
            stacklevel=4,
        )
        floats = None
    deep = floats is not None
    if floats is None:
        floats = floats_of(_pixels(panorama.image))
    if panorama.area is not None:
        floats = _floats_cut_out(floats, panorama.area)
    if format_name == "EXR":
        return exr_of(floats, packet, whole=panorama.area is None, deep=deep, expand=expand_highlights)
    write = deep_png if format_name == "PNG" else deep_tiff
    return write(sixteen_bits(floats), packet)


def on_the_sphere(part: Image.Image, size: tuple[int, int], area: Area) -> Image.Image:
    """A black or transparent sphere with the part on it; what reaches over the right edge goes on at the left one.

    part: of the size of its area, of any mode.
    size: (width, height) of the sphere in pixels.
    area: where the part lies.
    """
    sphere = Image.new(part.mode, size)
    for left in (area.left, area.left - size[0]):
        sphere.paste(part, (left, area.top))
    return sphere


def _floats_on_the_sphere(part: Floats, size: tuple[int, int], area: Area) -> Floats:
    """As :func:`on_the_sphere`."""
    sphere = np.zeros((size[1], size[0], 3), np.float32)
    sphere[area.top : area.top + area.height, np.arange(area.left, area.left + area.width) % size[0]] = part
    return sphere


def _floats_cut_out(sphere: Floats, area: Area) -> Floats:
    columns = np.arange(area.left, area.left + area.width) % sphere.shape[1]
    return sphere[area.top : area.top + area.height, columns]


def _cut_out(sphere: Image.Image, area: Area) -> Image.Image:
    part = Image.new("RGB", (area.width, area.height))
    for left in (area.left, area.left - sphere.width):
        part.paste(sphere, (-left, -area.top))
    return part


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)
