"""A panorama in other projections, as files that keep what it was made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import attrs
from PIL import Image

from dit360_core.errors import InputError, named, setting
from dit360_core.panorama.cubemaps import FORMS, LARGEST, LAYOUTS, SHAPES, check_size, laid_out, layout_of
from dit360_core.panorama.formats import FORMATS, PLAIN
from dit360_core.panorama.gpano import properties_of
from dit360_core.panorama.metadata import build_flat_xmp
from dit360_core.panorama.opening import MOST_PIXELS, most_opened
from dit360_core.panorama.picture import (
    TOLD,
    Panorama,
    check_holds,
    check_quality,
    check_save,
    encoded_with,
    in_words,
)
from dit360_core.sphere.camera import Camera
from dit360_core.system.atomic import check_new_folder, check_writable, new_folder, write_atomic
from dit360_core.system.memory import explain_full_memory

TARGETS = (*FORMS, "view", "little-planet")
"""What a panorama is exported as."""
SUFFIXES = tuple(suffix.removeprefix(".") for suffix in PLAIN)

_TAKES: Mapping[str, tuple[str, ...]] = {
    "faces": ("layout", "size", "format"),
    "cross": ("layout", "size"),
    "strip": ("layout", "size"),
    "view": ("yaw", "pitch", "roll", "fov", "width", "height"),
    "little-planet": ("fov", "yaw", "size"),
}
_ANGLES = ("yaw", "pitch", "roll")


@attrs.frozen(kw_only=True)
class Export:
    """What a panorama is to become. None: as usual for that.

    to: one of TARGETS.
    layout: whose names and turns faces have, of LAYOUTS; "plain" unless it is said.
    size: pixels along the side of a face, or of a little planet.
    format: the suffix of six files, of SUFFIXES; "png" unless it is said.
    yaw, pitch, roll: degrees to the right, upwards, and clockwise.
    fov: degrees over the longer side: of a view 90, of a little planet 270, unless it is said.
    width, height: pixels of a view; by the other 4:3, and without both as sharp as the panorama is.

    Raises InputError for what is none of these, or says nothing of what is made.
    """

    to: str
    layout: str | None = None
    size: int | None = None
    format: str | None = None
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    fov: float | None = None
    width: int | None = None
    height: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.to not in TARGETS:
            raise InputError(f"{setting('to', self.to)} is none of: {', '.join(TARGETS)}.")
        given = [a.name for a in attrs.fields(Export) if a.name != "to" and getattr(self, a.name) is not None]
        for name in given:
            if name not in _TAKES[self.to]:
                takes = ", ".join(named(each) for each in _TAKES[self.to])
                raise InputError(
                    f"{named(name)} says nothing of {setting('to', self.to)}, which takes {takes}; leave it out."
                )
        layout_of(self.layout or "plain")
        for name in ("size", "width", "height"):
            if getattr(self, name) is not None:
                check_size(getattr(self, name), name)
        for name in (*_ANGLES, "fov"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise InputError(f"{named(name)} is {getattr(self, name)}, but must be a number of degrees.")
        if self.format is not None and self.format not in SUFFIXES:
            raise InputError(f"{named('format')} is {self.format!r}, but must be one of: {', '.join(SUFFIXES)}.")
        if self.to == "view":
            _ = self.camera(1)  # which looks at the field of view
        elif self.to == "little-planet" and not 0 < self.degrees < 360:
            raise InputError(f"{named('fov')} is {self.degrees:g}, but must be above 0 and below 360 degrees.")

    @property
    def degrees(self) -> float:
        """The field of view."""
        return self.fov if self.fov is not None else 270.0 if self.to == "little-planet" else 90.0

    def camera(self, height: int) -> Camera:
        """That of a view.

        height: of the panorama, in pixels, as sharp as which the view is where its size is not said.
        """
        wide, high = self.width, self.height
        if wide is None and high is None:
            # Of a picture's pixels those in its middle are the coarsest, as of a face's.
            wide = math.ceil(2 * math.tan(math.radians(min(self.degrees, 179.9)) / 2) * height / math.pi)
            wide = max(1, min(LARGEST, wide))
        wide = max(1, round((high or 1) * 4 / 3)) if wide is None else wide
        high = max(1, round(wide * 3 / 4)) if high is None else high
        for name, side in (("width", wide), ("height", high)):
            if side > LARGEST:
                raise InputError(f"{named(name)} would be {side}, but no side is over {LARGEST}; say it too.")
        angles = {name: getattr(self, name) or 0.0 for name in _ANGLES}
        return Camera(width=wide, height=high, fov=self.degrees, **angles)


def check_target(export: Export, out: Path, *, quality: int, force: bool) -> None:
    """Raises InputError if what is asked cannot be written there, so that it is told before anything is computed.

    out: the file, or for six faces the folder.
    quality: 1 … 100, for JPEG and WebP.
    force: replace what is there.
    """
    check_quality(quality)
    if export.to != "faces":
        check_save(out, force=force)
        if out.suffix.lower() not in PLAIN:
            raise InputError(
                f"Cannot write {out}: what is exported has 8 bits a channel; end its name in {', '.join(PLAIN)}."
            )
    elif out.suffix.lower() in FORMATS:
        suffix = out.suffix.lower().removeprefix(".")
        more = f", and say {setting('format', suffix)}" if suffix in SUFFIXES else ""
        raise InputError(
            f"Six faces are written into a folder, and {out} is the name of a file; leave the suffix out{more}."
        )
    elif force and out.is_dir():
        for path in _files(export, out).values():
            check_writable(path, force=True)
            for suffix in FORMATS:
                if suffix != path.suffix and path.with_suffix(suffix).exists():
                    raise InputError(
                        f"{path.with_suffix(suffix)} is there already and would be the same face as {path.name}; "
                        "delete it, or choose another folder."
                    )
    else:
        check_new_folder(out)


def pictures_of(panorama: Panorama, export: Export) -> dict[str, Image.Image]:
    """What is asked: six faces by their names, or one picture under the name of what it is.

    Raises InputError for a part of a panorama.
    """
    _check_whole(panorama)
    if export.to == "view":
        eye = export.camera(panorama.height)
        looks = {"yaw": eye.yaw, "pitch": eye.pitch, "roll": eye.roll, "fov": eye.fov}
        return {export.to: panorama.perspective(width=eye.width, height=eye.height, **looks)}
    if export.to == "little-planet":
        return {export.to: panorama.little_planet(export.degrees, export.yaw or 0.0, export.size)}
    faces = panorama.faces(export.size, export.layout or "plain")
    return faces if export.to == "faces" else {export.to: laid_out(faces, export.to, LAYOUTS[export.layout or "plain"])}


def write(
    panorama: Panorama, export: Export, out: Path, *, quality: int = 95, force: bool = False
) -> dict[Path, Image.Image]:
    """Writes what is asked, with the panorama's settings and where it came from; returns the files.

    out: the file, or for six faces the folder, which is whole or not there.
    quality: 1 … 100, for JPEG and WebP.
    force: replace what is there; of a folder the six faces alone, one after the other.

    Raises InputError as check_target and pictures_of do; Dit360Error where writing fails, OutOfMemory among them.
    """
    smaller = "width" if export.to == "view" else "size"
    with explain_full_memory(f"writing {out}", "cpu", f"close other programs, or give a smaller {named(smaller)}"):
        return _written(panorama, export, out, quality=quality, force=force)


def _written(panorama: Panorama, export: Export, out: Path, *, quality: int, force: bool) -> dict[Path, Image.Image]:
    """As :func:`write`."""
    check_target(export, out, quality=quality, force=force)
    _check_whole(panorama)
    if panorama.hole is not None:
        warnings.warn(f"{panorama.file or 'The panorama'} is transparent in places, which is left out.", stacklevel=3)
    files = _files(export, out)
    size, most = _size(panorama, export), most_opened()
    if most is not None and size[0] * size[1] > most:
        warnings.warn(
            f"The {export.to} will have {size[0]}×{size[1]} pixels; dit360 itself opens so many only with "
            f"{MOST_PIXELS}={size[0] * size[1]} in the environment, and other programs may not.",
            stacklevel=3,
        )
    for path in files.values():
        check_holds(PLAIN[path.suffix.lower()], size, f"the {export.to}")
    pictures = pictures_of(panorama, export)
    data = {
        name: encoded_with(
            build_flat_xmp(_settings(panorama, export, name, picture)),
            picture,
            PLAIN[files[name].suffix.lower()],
            quality,
            f"the {name}",
        )
        for name, picture in pictures.items()
    }
    if export.to == "faces" and not (force and out.is_dir()):
        with new_folder(out) as folder:
            for name, path in files.items():
                (folder / path.name).write_bytes(data[name])
    else:
        for name, path in files.items():
            with write_atomic(path, force=force) as file:
                file.write(data[name])
    return {path: pictures[name] for name, path in files.items()}


def _check_whole(panorama: Panorama) -> None:
    if panorama.area is not None:
        raise InputError(
            f"Only a whole panorama can be exported, but {in_words(panorama)}, and the rest is black; fill it up "
            f"first, by giving it as {named('photo')} to generate."
        )


def _size(panorama: Panorama, export: Export) -> tuple[int, int]:
    """(width, height) in pixels of what will be made."""
    from dit360_core.panorama import projecting  # with torch

    if export.to == "view":
        eye = export.camera(panorama.height)
        return eye.width, eye.height
    if export.to == "little-planet":
        side = export.size or projecting.planet_size(panorama.height, export.degrees)
        return side, side
    side = export.size or projecting.face_size(panorama.height)
    across, down = SHAPES.get(export.to, (1, 1))
    return across * side, down * side


def _files(export: Export, out: Path) -> dict[str, Path]:
    if export.to != "faces":
        return {export.to: out}
    return {name: out / f"{name}.{export.format or 'png'}" for name in LAYOUTS[export.layout or "plain"].row}


def _settings(panorama: Panorama, export: Export, name: str, picture: Image.Image) -> dict[str, object]:
    """The panorama's, and where the picture came from: its pose is told there, as a flat picture has none."""
    told: dict[str, object] = {"to": export.to, "width": picture.width, "height": picture.height}
    if export.to in FORMS:
        told |= {"layout": export.layout or "plain"} | ({"face": name} if export.to == "faces" else {})
    elif export.to == "view":
        told |= {angle: getattr(export, angle) or 0.0 for angle in _ANGLES} | {"fov": export.degrees}
    else:
        told |= {"yaw": export.yaw or 0.0, "fov": export.degrees}
    origin = {"file": panorama.file, "width": panorama.width, "height": panorama.height}
    places = properties_of(panorama.size, None, attrs.evolve(panorama.pose, others={}))
    pose = {key: text for key, text in places.items() if key.endswith("Degrees")}
    return {**panorama.settings, TOLD: {**told, "from": origin, "gpano": {**pose, **panorama.pose.others}}}
