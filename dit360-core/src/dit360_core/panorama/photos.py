"""Photos that a panorama is made around: what they show, and where on the sphere it lies."""

from __future__ import annotations

import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import attrs
from PIL import Image, ImageOps

from dit360_core.errors import InputError, named
from dit360_core.options import PhotoOptions, build
from dit360_core.panorama.colours import to_srgb
from dit360_core.panorama.gpano import Area, Pose, place, read_pose
from dit360_core.panorama.opening import Opened, alpha_of, check_pixels, focal_length, read_picture
from dit360_core.sphere.camera import Camera

_DIAGONAL = math.hypot(36, 24)
"""Millimetres of a frame of 35 mm film."""


def _picture(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise InputError(
            f"A photo's image is a {type(image).__name__}, but must be a picture of Pillow; for a file: Photo.open."
        )
    return image


@attrs.frozen(eq=False, kw_only=True)
class Place:
    """Where a part of a panorama lies on a whole of ``size``."""

    size: tuple[int, int]
    area: Area


@attrs.frozen(eq=False, repr=False)
class Photo:
    """A photo, and the camera that took it.

    image: of Pillow, upright or with its EXIF orientation.
    fov: degrees over its longer side, above 0 and below 180; None: as the image's EXIF says.
    yaw, pitch: degrees to the right and upwards at which its middle lies.
    roll: degrees by which the camera was turned clockwise.
    name: what it is called in messages and metadata.
    place: where it lies as a part of a panorama, instead of the angles.
    pose: of that panorama.
    opaque: in grey, 255 where the photo shows something; None: everywhere, or as the image's transparency says.

    Raises InputError for a field of view that is none, or that is not given and not known.
    """

    image: Image.Image = attrs.field(converter=_picture)
    fov: float = attrs.field(default=None, kw_only=True)
    yaw: float = attrs.field(default=0.0, kw_only=True)
    pitch: float = attrs.field(default=0.0, kw_only=True)
    roll: float = attrs.field(default=0.0, kw_only=True)
    name: str = attrs.field(default="the photo", kw_only=True)
    place: Place | None = attrs.field(default=None, kw_only=True)
    pose: Pose | None = attrs.field(default=None, kw_only=True)
    opaque: Image.Image | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        focal = focal_length(self.image)
        upright = ImageOps.exif_transpose(self.image)
        if self.opaque is None:
            object.__setattr__(self, "opaque", alpha_of(upright))
        object.__setattr__(self, "image", _in_srgb(upright, self.name))
        if self.place is not None:
            object.__setattr__(self, "fov", 360.0 * self.place.area.width / self.place.size[0])
            return
        if self.fov is None:
            object.__setattr__(self, "fov", fov_of(focal, self.image.size, self.name))
        for name in ("fov", "yaw", "pitch", "roll"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{named(name)} of {self.name} is {value!r}, but must be a number of degrees.")
        _ = self.camera  # which looks at the numbers

    def __repr__(self) -> str:
        return f"<Photo {self.image.width}×{self.image.height}, fov {self.fov:g}, yaw {self.yaw:g}>"

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, fov: float | None = None, yaw: float = 0.0, pitch: float = 0.0,
        roll: float = 0.0,
    ) -> Photo:  # fmt: skip
        """Reads a photo, or a part of a panorama, which lies where its GPano metadata say.

        path: of a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR file.
        fov, yaw, pitch, roll: as in the class.

        Raises InputError if the file is missing or no such picture, or as the class does; and for a whole panorama, or
        a part of one for which angles are given too.
        """
        opened = read_picture(Path(path))
        name = Path(path).name
        for told in opened.told:
            warnings.warn(f"{path} {told}", stacklevel=2)
        properties = opened.metadata.gpano
        if any(key in properties for key in ("ProjectionType", "FullPanoWidthPixels")):
            return _part(cls, opened, path, name, (fov, yaw, pitch, roll))
        if fov is None:
            fov = fov_of(opened.focal, opened.image.size, name)
        return cls(opened.image, fov=fov, yaw=yaw, pitch=pitch, roll=roll, name=name, opaque=opened.alpha)

    @property
    def camera(self) -> Camera:
        """That took it. Raises InputError for a field of view that is none."""
        width, height = self.image.size
        return Camera(width=width, height=height, fov=self.fov, yaw=self.yaw, pitch=self.pitch, roll=self.roll)

    def as_dict(self) -> dict[str, Any]:
        """For metadata."""
        angles = {"fov": round(self.fov, 4), "yaw": self.yaw, "pitch": self.pitch, "roll": self.roll}
        if self.place is not None:
            angles = {"area": attrs.asdict(self.place.area), "of": list(self.place.size)}  # type: ignore[dict-item]
        return {"name": self.name, **angles}


def _part(
    cls: type[Photo],
    opened: Opened,
    path: str | PathLike[str],
    name: str,
    angles: tuple[float | None, float, float, float],
) -> Photo:
    properties = opened.metadata.gpano
    try:
        placed = place(properties, opened.image.size)
    except InputError as error:
        raise InputError(
            f"Cannot open {path} as a part of a panorama: {error.sentence.rstrip('.')}; remove its GPano metadata and "
            f"give {named('fov')}, if it is a photo."
        ) from error
    if placed.area is None:
        raise InputError(
            f"{name} is a whole panorama, and leaves nothing to be made around it; give it as {named('image')}, with "
            f"a {named('mask')}."
        )
    if angles != (None, 0.0, 0.0, 0.0):
        raise InputError(
            f"{name} lies where its GPano metadata say; leave {named('fov')}, {named('yaw')}, {named('pitch')} and "
            f"{named('roll')} out, or remove the metadata."
        )
    check_pixels(placed.size, f"Cannot open {path}: it is a part of a panorama that has")
    pose, unused = read_pose(properties)
    for told in (*unused, *placed.told):
        warnings.warn(f"{path} opens, but {told}.", stacklevel=3)
    where = Place(size=placed.size, area=placed.area)
    return cls(opened.image, name=name, place=where, pose=pose, opaque=opened.alpha)


def _in_srgb(image: Image.Image, name: str) -> Image.Image:
    """RGB. Raises InputError for a picture of over 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{name} has over 8 bits a channel ({image.mode}); save it with 8.")
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    converted, _, unused = to_srgb(image, profile)
    if unused:
        warnings.warn(f"The colour profile of {name} is not used, and it is taken for sRGB: {unused}.", stacklevel=4)
    return converted


def fov_of(focal: float | None, size: tuple[int, int], name: str) -> float:
    """Degrees over a photo's longer side, from the lens that its EXIF tells of.

    focal: millimetres on 35 mm film; None: unknown.
    size: (width, height) in pixels.
    name: of the photo, for the error.

    Lenses are compared by their diagonals (CIPA DCG-001): of a 3:2 frame that is 2·atan(18/f).

    Raises InputError if it is not known.
    """
    if focal is None:
        raise InputError(
            f"The field of view of {name} is not known, as its EXIF names no lens; give {named('fov')}: about 65 "
            "degrees over the longer side for most phones, 100 for a wide angle, 25 for a telephoto lens."
        )
    half = _DIAGONAL / 2 * max(size) / math.hypot(*size)
    return math.degrees(2 * math.atan(half / focal))


def parsed(text: str, common: PhotoOptions) -> dict[str, Any]:
    """What ``FILE;fov=60;yaw=90`` says: ``path`` and the angles, those of ``common`` where it says none.

    Raises InputError for a key that is none or said twice, or a value that is no number.
    """
    path, *pairs = text.split(";")
    given: dict[str, Any] = {name: getattr(common, name) for name in ("fov", "yaw", "pitch", "roll")}
    said: set[str] = set()
    for pair in pairs:
        key, sign, value = (part.strip() for part in pair.partition("="))
        if not sign or key not in given:
            raise InputError(
                f"{named('photo')} {text!r} says {pair.strip()!r}, but may say fov, yaw, pitch and roll behind the "
                'file, as in "photo.jpg;fov=60;yaw=90".'
            )
        if key in said:
            raise InputError(f"{named('photo')} {text!r} says {key} twice; say it once.")
        said.add(key)
        try:
            given[key] = float(value)
        except ValueError as error:
            point = f"; write it with a decimal point: {value.replace(',', '.')}" if value.count(",") == 1 else ""
            raise InputError(
                f"{key} of the photo {path} is {value!r}, but must be a number of degrees{point}."
            ) from error
    build(PhotoOptions, given)
    if not path.strip():
        raise InputError(f"{named('photo')} {text!r} names no file; write photo.jpg;fov=60.")
    return {"path": path.strip(), **given}
