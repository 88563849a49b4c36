"""What Google's GPano properties say of a panorama: where its pixels lie on the sphere, and which way it looks.

Properties, their units and the order of the rotations: https://developers.google.com/streetview/spherical-metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from dit360_core.errors import InputError

#: The namespace of the properties.
GPANO = "http://ns.google.com/photos/1.0/panorama/"

#: Property → (field of Pose, lowest, highest). A heading is taken round the circle; other angles outside are none.
_ANGLES = {
    "PoseHeadingDegrees": ("heading", -math.inf, math.inf),
    "PosePitchDegrees": ("pitch", -90.0, 90.0),
    "PoseRollDegrees": ("roll", -360.0, 360.0),
    "InitialViewHeadingDegrees": ("view_heading", -math.inf, math.inf),
    "InitialViewPitchDegrees": ("view_pitch", -90.0, 90.0),
    "InitialViewRollDegrees": ("view_roll", -360.0, 360.0),
    "InitialHorizontalFOVDegrees": ("view_fov", 0.001, 360.0),
}
_PLACES = (
    "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels", "FullPanoWidthPixels", "FullPanoHeightPixels",
    "CroppedAreaLeftPixels", "CroppedAreaTopPixels",
)  # fmt: skip
#: Properties of a rectangle in the file's own pixels, which hold for the file they were written for and no other.
_OF_THE_FILE = tuple(f"LargestValidInteriorRect{what}" for what in ("Left", "Top", "Width", "Height"))


@attrs.frozen(kw_only=True)
class Pose:
    """How a panorama is held in the world, and where a viewer is to look at first. None: nobody said.

    heading: degrees clockwise from north of the middle column, 0 … 360.
    pitch: degrees above the horizon of the picture's centre, −90 … 90.
    roll: degrees, −180 … 180; as it grows, the horizon turns counterclockwise.
    view_heading, view_pitch, view_roll: of the first view, in the world and not relative to the picture.
    view_fov: degrees of its width.
    others: further GPano properties by their bare names (who captured it, when), as text.
    """

    heading: float | None = None
    pitch: float | None = None
    roll: float | None = None
    view_heading: float | None = None
    view_pitch: float | None = None
    view_roll: float | None = None
    view_fov: float | None = None
    others: Mapping[str, str] = attrs.field(factory=dict)

    def turned(self, degrees: float) -> Pose:
        """That of the picture after its middle is what was at yaw ``degrees``: the world stays where it is.

        The rotation of the picture is Rz(−heading)·Rx(pitch)·Ry(roll), and a turn comes before it as Rz(−degrees).
        """
        if self.heading is None and self.view_heading is None and not self.pitch and not self.roll:
            return self
        h, p, r, d = (math.radians(angle or 0.0) for angle in (self.heading, self.pitch, self.roll, degrees))
        # The rows of Rx(pitch)·Ry(roll), then its columns turned by Rz(−degrees).
        rows = (
            (math.cos(r), 0.0, math.sin(r)),
            (math.sin(p) * math.sin(r), math.cos(p), -math.sin(p) * math.cos(r)),
            (-math.cos(p) * math.sin(r), math.sin(p), math.cos(p) * math.cos(r)),
        )
        (_, ahead_x, _), (_, ahead_y, _), (right_z, ahead_z, up_z) = (
            (x * math.cos(d) - y * math.sin(d), x * math.sin(d) + y * math.cos(d), z) for x, y, z in rows
        )
        heading = _round(math.degrees(h + math.atan2(ahead_x, ahead_y)) % 360) % 360
        level = not self.pitch and not self.roll
        return attrs.evolve(
            self,
            # A first view without a heading of the picture is taken from its middle, which is another one then.
            heading=None if self.heading is None and self.view_heading is None else heading,
            pitch=self.pitch if level else _round(math.degrees(math.asin(max(-1.0, min(1.0, ahead_z))))),
            roll=self.roll if level else _round(math.degrees(math.atan2(-right_z, up_z))),
        )

    @property
    def start(self) -> tuple[float, float, float]:
        """(yaw, pitch, field of view) in degrees of the first view, yaw from the middle column to the right."""
        yaw = 0.0 if self.view_heading is None else self.view_heading - (self.heading or 0.0)
        return math.remainder(yaw, 360), self.view_pitch or 0.0, self.view_fov or 90.0


#: Of a picture that is made: its middle is called north, as a generated place has no north of its own.
MADE = Pose(heading=0.0)


@attrs.frozen(kw_only=True)
class Area:
    """The part of a panorama that is shown, in pixels of the whole: it may reach over the meridian to the left edge."""

    left: int
    top: int
    width: int
    height: int


@attrs.frozen(kw_only=True)
class Placement:
    """Where a file's pixels lie.

    size: of the whole sphere, in pixels; area: the part that is shown, None: all of it.

    told: what of the properties was not used, one sentence each, to follow the file's name.
    """

    size: tuple[int, int]
    area: Area | None
    told: tuple[str, ...] = ()


def read_pose(properties: Mapping[str, str]) -> tuple[Pose, tuple[str, ...]]:
    """(the pose that GPano properties say, what of them was not used).

    properties: by their bare names, as text.
    """
    angles: dict[str, float] = {}
    told = []
    for name, (field, low, high) in _ANGLES.items():
        if name not in properties:
            continue
        value = _number(properties[name])
        if value is None or not low <= value <= high:
            told.append(f"its {name} is {_short(properties[name])}, which is no such angle, and is left out")
        else:
            angles[field] = value % 360 if "heading" in field else math.remainder(value, 360) if low < -90 else value
    known = {*_ANGLES, *_PLACES, *_OF_THE_FILE, "ProjectionType"}
    others = {name: text for name, text in properties.items() if name not in known}
    if others.get("UsePanoramaViewer", "true").strip().lower() in ("true", "1"):
        others.pop("UsePanoramaViewer", None)
    return Pose(**angles, others=others), tuple(told)


def place(properties: Mapping[str, str], size: tuple[int, int]) -> Placement:
    """Where the pixels of a file of ``size`` lie on the sphere, by its GPano properties.

    A picture that was resized is recognized by its shape, and everything scaled. One that has the shape of the whole
    and not of the part that its properties tell of, as after an editor filled up the rest, is taken as whole.

    Raises InputError if the projection is another, or if neither the properties nor the shape make it a panorama.
    """
    projection = properties.get("ProjectionType", "").strip() or "equirectangular"
    if projection.lower() != "equirectangular":
        raise InputError(
            f"its projection is {_short(projection)}, and dit360 reads equirectangular panoramas; convert it."
        )
    width, height = size
    numbers = {name: _number(properties[name]) for name in _PLACES if name in properties}
    wrong = [name for name, value in numbers.items() if value is None or (value < 0 and "Left" not in name)]
    if wrong:
        why = f"its {wrong[0]} is {_short(properties[wrong[0]])}, which is no number of pixels"
        return _as_whole(size, f"{why}: taken as the whole sphere")
    part_w, part_h, full_w, full_h, left, top = (numbers.get(name) for name in _PLACES)
    if not full_w or not full_h:
        if left or top:
            raise InputError(
                "its GPano metadata speak of a part of a panorama, and not of which size the whole is "
                f"({_PLACES[2]}, {_PLACES[3]}); write them anew."
            )
        return _as_whole(size, "")
    if not part_w or not part_h:
        whole = not left and not top and _alike(size, (full_w, full_h))
        part_w, part_h = (full_w, full_h) if whole else (width, height)
    spoken = f"{part_w:g}×{part_h:g} pixels of a sphere of {full_w:g}×{full_h:g}"
    for start, part, full, name in ((left, part_w, full_w, _PLACES[4]), (top, part_h, full_h, _PLACES[5])):
        if start is None and part < full and size != (full_w, full_h):
            raise InputError(f"its GPano metadata speak of {spoken}, and not of where ({name}); write them anew.")
    fits = part_w <= full_w + 1 and part_h + (top or 0) <= full_h + 1 and abs(full_w - 2 * full_h) <= full_h / 50
    filled_up = (width, height) == (full_w, full_h) != (part_w, part_h)
    if not fits or filled_up or not _alike(size, (part_w, part_h)):
        return _as_whole(size, f"its GPano metadata speak of {spoken}, and it has {width}×{height}: taken as the whole")
    # Each side by its own scale: they differ by the rounding of a small picture.
    across, down = width / part_w, height / part_h
    whole_h = max(round(full_w * across / 2), height, (width + 1) // 2)
    whole_w = 2 * whole_h
    if (part_w, part_h) == (full_w, full_h) or (width, height) == (whole_w, whole_h):
        return _as_whole(size, "")
    at_top = min(round((top or 0.0) * down), whole_h - height)
    area = Area(left=round((left or 0.0) * across) % whole_w, top=at_top, width=width, height=height)
    return Placement(size=(whole_w, whole_h), area=area)


def properties_of(size: tuple[int, int], area: Area | None, pose: Pose) -> dict[str, str]:
    """The GPano properties to write, by their bare names.

    size: of the whole sphere, in pixels.
    """
    shown = area or Area(left=0, top=0, width=size[0], height=size[1])
    angles = {name: getattr(pose, field) for name, (field, _, _) in _ANGLES.items()}
    places = (shown.width, shown.height, *size, shown.left, shown.top)
    return {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        **{name: _written(name, angle) for name, angle in angles.items() if angle is not None},
        **{name: str(pixels) for name, pixels in zip(_PLACES, places, strict=True)},
        **pose.others,
    }


def _as_whole(size: tuple[int, int], told: str) -> Placement:
    width, height = size
    if width != 2 * height:
        raise InputError(
            f"{told.partition(': taken')[0]}; crop or resize it to 2:1, or write its metadata anew."
            if told
            else f"A panorama is twice as wide as high, but this picture is {width}×{height}; crop or resize it to 2:1."
        )
    return Placement(size=size, area=None, told=(told,) if told else ())


def _alike(size: tuple[int, int], other: tuple[float, float]) -> bool:
    """Whether one is the other, scaled, each side rounded to a whole number of pixels."""
    (low_w, high_w), (low_h, high_h) = (((n - 1) / m, (n + 1) / m) for n, m in zip(size, other, strict=True))
    return max(low_w, low_h) <= min(high_w, high_h)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _written(name: str, angle: float) -> str:
    # The first view's angles are whole numbers by their definition, the others real.
    return str(int(angle)) if name.startswith("InitialView") and angle == int(angle) else str(float(angle))


def _round(degrees: float) -> float:
    """Without the last digits, which trigonometry spoils."""
    return round(degrees, 9) + 0.0


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
