"""Photos on the sphere: where each lies, and what it counts where several overlap."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dit360_core.panorama.photos import Photo, Place
from dit360_core.panorama.picture import on_the_sphere
from dit360_core.panorama.resizing import resized
from dit360_core.pipeline.planes import image_of, pixels_of
from dit360_core.sphere.views import directions, onto_sphere, project, rotation

log = logging.getLogger("dit360")

_FARTHEST = 0.25
"""That a photo's corners count of its middle, but for how near its edge is."""
_LEAST = 1e-4
"""Radians that are counted at a photo's edge: nothing beside another, all of it alone."""


def blended(photos: Sequence[Photo], height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(3, H, W)`` and ``(H, W)``: what photos show, and how much of each pixel they cover together.

    Where they overlap each counts the more the nearer a direction is to its middle, and nothing at its edge.

    height: of the panorama, in pixels.
    """
    total, weights = torch.zeros(3, height, 2 * height), torch.zeros(height, 2 * height)
    covered = torch.zeros(height, 2 * height)
    for photo in photos:
        pixels, share = _laid(photo, height)
        weight = share * _counts(photo, height) if len(photos) > 1 else share
        total += weight * pixels
        weights += weight
        covered = torch.maximum(covered, share)
    if bool((covered == 1).all()):
        log.warning("The photos cover the whole sphere, and nothing is left to be made.")
    return total / weights.clamp(min=1e-12), covered


def _laid(photo: Photo, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(3, H, W)`` and ``(H, W)``: one photo on the sphere, and how much of each pixel it covers."""
    planes = _planes(photo)
    if photo.place is None:
        planes[:3] *= planes[3:]
        laid, share = onto_sphere(planes, photo.camera, height)
        opaque = laid[3].clamp(0, 1)
        # A hair below 1 is what interpolation leaves of a photo that is opaque.
        opaque = torch.where(opaque > 1 - 1e-4, torch.ones_like(opaque), opaque)
        return (laid[:3] / opaque.clamp(min=1e-6)).clamp(0, 1), share * opaque
    sphere = on_the_sphere(image_of(planes), photo.place.size, photo.place.area)
    how = Image.Resampling.LANCZOS if sphere.height > height else Image.Resampling.BICUBIC
    found = pixels_of(resized(sphere, (2 * height, height), how))
    return found[:3], found[3]


def _planes(photo: Photo) -> torch.Tensor:
    """``(4, h, w)`` in 0 … 1: red, green, blue, and whether the photo shows something."""
    colours = pixels_of(photo.image)
    if photo.opaque is None:
        return torch.cat([colours, torch.ones_like(colours[:1])])
    return torch.cat([colours, torch.from_numpy(np.array(photo.opaque, np.float32) / 255)[None]])


def _counts(photo: Photo, height: int) -> torch.Tensor:
    """``(H, W)`` above 0: what a photo counts where others overlap it.

    The angle to its nearest edge, so that it begins with nothing there, and the less the farther its middle is.
    """
    if photo.place is not None:
        return _from_the_edges(photo.place, height).clamp(min=_LEAST)
    seen, camera = directions(height), photo.camera
    places, inside = project(camera, seen)
    sides = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    nearest = torch.minimum(places, sides - places).min(-1).values * camera.pixel
    angle = torch.acos((seen @ rotation(camera)[:, 2]).clamp(-1, 1))
    middle = (1 - angle / camera.widest).clamp(_FARTHEST, 1)
    return torch.where(inside, nearest * middle, torch.zeros_like(nearest)).float().clamp(min=_LEAST)


def _from_the_edges(place: Place, height: int) -> torch.Tensor:
    """``(H, W)``: radians to the nearest edge of a part. All around, and at a pole, it has none."""
    area, (wide, high) = place.area, place.size
    none = torch.tensor(torch.inf)
    column = ((torch.arange(2 * height) + 0.5) * wide / (2 * height) - area.left) % wide
    row = (torch.arange(height) + 0.5) * high / height - area.top
    beside = torch.minimum(column, area.width - column) if area.width < wide else none.expand(2 * height)
    over = row if area.top > 0 else none
    under = area.height - row if area.top + area.height < high else none
    around = torch.sin((torch.arange(height) + 0.5) / height * torch.pi)[:, None]
    nearest = torch.minimum(beside[None] * around, torch.minimum(over, under).expand(height)[:, None])
    return nearest.clamp(max=high / 2) / high * torch.pi
