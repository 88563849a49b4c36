"""A camera in the middle of the sphere: what its picture's pixels are in degrees."""

from __future__ import annotations

import math

import attrs

from dit360_core.errors import InputError, named


@attrs.frozen(kw_only=True)
class Camera:
    """A camera in the middle of the sphere, and the size of its picture.

    width, height: pixels of the picture.
    fov: degrees over the picture's longer side, above 0 and below 180.
    yaw: degrees to the right, 0: the middle of the panorama.
    pitch: degrees upwards.
    roll: degrees by which the camera is turned clockwise, seen from behind it.

    Raises InputError for a field of view or a size that is none.
    """

    width: int
    height: int
    fov: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.fov < 180:
            raise InputError(
                f"{named('fov')} is {self.fov:g}, but must be above 0 and below 180 degrees over the longer side; "
                "most phones have about 65, a wide angle 100."
            )
        if not all(map(math.isfinite, (self.yaw, self.pitch, self.roll))):
            raise InputError(f"A camera cannot look at yaw {self.yaw}, pitch {self.pitch}, roll {self.roll}.")
        if self.width < 1 or self.height < 1:
            raise InputError(f"A picture of {self.width}×{self.height} pixels is empty; give one that is not.")

    @property
    def pixel(self) -> float:
        """The side of a pixel on a plane at distance 1."""
        return 2 * math.tan(math.radians(self.fov) / 2) / max(self.width, self.height)

    @property
    def widest(self) -> float:
        """Radians from the middle of the picture to its corners."""
        return math.atan(math.hypot(self.width, self.height) / 2 * self.pixel)
