"""Photos that overlap: whether each shows something that the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from dit360_core.errors import InputError
from dit360_core.panorama.photos import Photo

if TYPE_CHECKING:
    import torch

_ACROSS = 65
"""Directions along either side of a photo that are looked at."""


def check_new(photos: Sequence[Photo]) -> None:
    """Raises InputError if a photo shows nothing that those before it do not show."""
    for index, photo in enumerate(photos):
        if not index:
            continue
        seen, others = _looked_in(photo), photos[:index]
        new = ~_shows(others[0], seen)
        for other in others[1:]:
            new &= ~_shows(other, seen)
        if not bool(new.any()):
            names = " and ".join(dict.fromkeys(other.name for other in others))
            raise InputError(
                f"{photo.name} shows nothing new, as all that it shows lies in {names} at a field of view of "
                f"{photo.fov:g} degrees; move it by its yaw or pitch, or leave it out."
            )


def _looked_in(photo: Photo) -> torch.Tensor:
    """``(N, 3)`` float64: directions all over a photo, from edge to edge but for a hair."""
    import torch

    from dit360_core.sphere.views import at, rays

    if photo.place is None:
        width, height = photo.image.size
        longest = max(width, height)
        small = attrs.evolve(
            photo.camera,
            width=max(1, round(_ACROSS * width / longest)),
            height=max(1, round(_ACROSS * height / longest)),
        )
        return rays(small).reshape(-1, 3)
    area, (_, whole) = photo.place.area, photo.place.size
    share = (torch.arange(_ACROSS, dtype=torch.float64) + 0.5) / _ACROSS
    rows, columns = area.top + share * area.height, area.left + share * area.width
    return at(rows[:, None], columns[None], whole).reshape(-1, 3)


def _shows(photo: Photo, seen: torch.Tensor) -> torch.Tensor:
    """``(N,)`` of bool: whether directions lie in a photo."""
    from dit360_core.sphere.views import place_of, project

    if photo.place is None:
        return project(photo.camera, seen)[1]
    area, (width, height) = photo.place.area, photo.place.size
    row, column = place_of(seen, height)
    down = row - area.top
    return ((column - area.left).remainder(width) <= area.width) & (down >= 0) & (down <= area.height)
