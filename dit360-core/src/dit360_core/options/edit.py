"""What is decided when a part of a picture is kept and the rest made anew."""

from __future__ import annotations

import math

import attrs

from dit360_core.errors import InputError, named, setting
from dit360_core.options.choices import MASK_MEANINGS, REFERENCES
from dit360_core.options.declaring import option


@attrs.frozen(kw_only=True)
class EditOptions:
    """What is decided when a part of a picture is kept and the rest made anew. Distances are degrees of arc."""

    region: str | None = option(
        None,
        help="A view of the image to make anew, as YAW,PITCH,FOV in degrees, such as 90,0,60; the rest stays.",
        unset="none",
        longest=100,
    )
    mask_means: str = option(
        "repaint", help="What white in the mask means: repaint it, or keep it.", choices=MASK_MEANINGS
    )
    mask_grow: float | None = option(
        None,
        help="Degrees by which what is made anew grows into what is kept.",
        minimum=0.0,
        maximum=90.0,
        unset="8 pixels of the picture",
    )
    mask_soften: float | None = option(
        None,
        help="Degrees over which what is made anew passes into what is kept. 0: a hard edge.",
        minimum=0.0,
        maximum=90.0,
        unset="16 pixels of the picture",
    )
    paste_back: bool = option(
        True, help="Give what is kept its own pixels again, bit for bit, once the picture is decoded."
    )
    match_colours: bool = option(
        True, help="Carry the colours at the rim of what is kept a little way into what is made."
    )

    reference: str = option(
        "auto",
        help="Whether a model that can be shown pictures sees what is kept, on a green ground (more memory and time).",
        choices=REFERENCES,
    )

    def __attrs_post_init__(self) -> None:
        if self.region is not None:
            region_of(self.region)
        if not self.paste_back and not self.match_colours:
            raise InputError(
                f"{setting('match_colours', 'False')} has no effect, because {setting('paste_back', 'False')} leaves "
                "the decoded picture as it is; leave one of them out."
            )


def region_of(text: str) -> tuple[float, float, float]:
    """(yaw, pitch, field of view) in degrees.

    text: ``YAW,PITCH,FOV``.

    Raises InputError if it is something else. A pitch beyond a pole looks at the other side.
    """
    cells = [cell.strip() for cell in text.split(",")]
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{named('region')} is {text!r}, but must be three numbers, YAW,PITCH,FOV in degrees, such as 90,0,60."
        )
    yaw, pitch, fov = numbers
    if not 0 < fov < 180:
        raise InputError(
            f"{named('region')} has a field of view of {fov:g} degrees, but must be above 0 and below 180; for more, "
            f"give a mask."
        )
    return yaw, pitch, fov


@attrs.frozen(kw_only=True)
class PhotoOptions:
    """Where a photo lies, for those that do not say so themselves."""

    fov: float | None = option(
        None,
        help="Degrees that a photo shows over its longer side: 65 for most phones, 100 for wide angle.",
        minimum=0.0,
        maximum=180.0,
        unset="from the photo's EXIF",
    )
    yaw: float = option(0.0, help="Degrees to the right at which the middle of a photo lies.")
    pitch: float = option(0.0, help="Degrees upwards at which the middle of a photo lies.")
    roll: float = option(0.0, help="Degrees by which the camera was turned clockwise.")
