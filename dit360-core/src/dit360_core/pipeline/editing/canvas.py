"""The panorama as far as it is known before it is made: its pixels, and how much of each is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from dit360_core.options import EditOptions, region_of
from dit360_core.panorama.gpano import MADE, Pose
from dit360_core.panorama.levels import Floats
from dit360_core.panorama.masks import levels_of
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.editing.laying import blended
from dit360_core.pipeline.planes import image_of, numbers_of
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.distance import distance
from dit360_core.sphere.filling import filled
from dit360_core.sphere.views import directions, project, rotation

log = logging.getLogger("dit360")

GROWN, SOFT = 8, 16
"""Pixels of growth and of softness where nobody says otherwise: a latent column has 8."""
FEATHER, PHOTO_FEATHER = 8, 4
"""Pixels over which what is kept of an image, and of a photo, passes into what is made when it is pasted back."""
GREEN = torch.tensor([0.0, 1.0, 0.0])
BEYOND = 4
"""Pixels beyond a photo's edge that are held as they were filled in: the autoencoder needs them to show the edge."""


@attrs.frozen(kw_only=True, eq=False)
class Canvas:
    """A panorama as far as it is known before it is made.

    picture: with pixels everywhere, those that are not known filled in.
    keep: ``(1, 1, H/8, W/8)`` float32 in 0 … 1, how much of each latent is held while sampling.
    made: ``(H, W)`` float32 in 0 … 1, how much of each pixel is made anew.
    unknown: ``(H, W)`` float32, 1 where a model that fills is shown a hole: what is filled in is nothing to go on from.
    paste: ``(H, W)`` float32 in 0 … 1, how much of each pixel is pasted back; 1: bit for bit.
    told: for metadata.
    """

    picture: Panorama
    keep: torch.Tensor
    made: torch.Tensor
    unknown: torch.Tensor
    paste: torch.Tensor
    told: Mapping[str, Any]

    @property
    def pixels(self) -> torch.Tensor:
        """``(1, 3, H, W)`` float32 in 0 … 1."""
        return numbers_of(self.picture)[None]

    @property
    def on_green(self) -> torch.Tensor:
        """The same, pure green where a model that is shown it is to go on from nothing."""
        return on_green(self.pixels, self.unknown)


def on_green(pixels: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
    """A picture as a model that refers is shown it: pure green where it is to go on from nothing.

    pixels: ``(1, 3, H, W)`` in 0 … 1.
    unknown: ``(H, W)``, 1 where that is.
    """
    return torch.where(unknown == 1, GREEN[None, :, None, None], pixels)


def canvas_of(given: Given, size: tuple[int, int]) -> Canvas:
    """The canvas of a picture of ``size`` (width, height) in pixels.

    given: which keeps something.
    """
    width, height = size
    grow, soften = _degrees(given.options, width)
    one = 360 / width
    keep, paste = torch.zeros(height, width), torch.zeros(height, width)
    latents = torch.zeros(1, 1, height // 8, width // 8)
    known = torch.zeros(height, width)
    pixels = torch.zeros(3, height, width)
    unknown = torch.ones(height, width)
    photos, shown = blended(given.photos, height) if given.photos else (pixels, known)
    beyond = BEYOND * one if given.options.mask_grow is None else -grow
    if given.image is not None:
        pixels, known = numbers_of(given.image), torch.ones(height, width)
        hole = _hole(given, size)
        if hole is not None:
            if given.photos:
                # What is around a photo is made anew, as far as the photo is felt, or it would end in a step.
                reach = max(0.0, beyond) + soften + one
                away = distance(shown == 1, reach)
                hole = torch.maximum(hole, ((shown < 1) & (away <= max(one, reach - grow))).float())
                known = torch.where((shown < 1) & away.isfinite(), shown, known)
            keep, paste = around_hole(hole, grow, soften, FEATHER * one)
            latents = held_latents(keep)
            unknown = (keep < 0.5).float()
    if given.photos:
        of_image = (known - shown).clamp(min=0)
        pixels = (shown * photos + of_image * pixels) / (shown + of_image).clamp(min=1e-6)
        known = torch.maximum(known, shown)
        held, pasted = around_photo(shown, beyond, soften, PHOTO_FEATHER * one)
        keep, paste = torch.maximum(keep, held), torch.maximum(paste, pasted)
        latents = torch.maximum(latents, F.avg_pool2d(held[None, None], 8))
        unknown = unknown * (shown < 1)
    if not bool(known.all()):
        pixels = filled(pixels, known)
    picture = Panorama(image=image_of(pixels), pose=_pose(given), floats=_floats(given, pixels))
    told = {
        "kept": round(share_of(keep == 1), 4),
        "made": round(share_of(keep == 0), 4),
        **({"mask_grow": round(grow, 4)} if given.image is not None or given.options.mask_grow is not None else {}),
        "mask_soften": round(soften, 4),
        "paste_back": given.options.paste_back,
        "match_colours": given.options.match_colours,
        **({"mask": list(given.mask.size), "mask_means": given.options.mask_means} if given.mask else {}),
        "transparency": given.image is not None and given.image.hole is not None,
        **({"region": given.options.region} if given.options.region else {}),
        **({"photos": [photo.as_dict() for photo in given.photos]} if given.photos else {}),
    }
    if given.leaves != "nothing" and not bool((keep == 1).any()):
        log.warning("Nothing of the picture is kept as it is: what is kept is narrower than growth and softness.")
    return Canvas(
        picture=picture,
        keep=latents,
        made=1 - keep,
        unknown=unknown,
        paste=paste if given.options.paste_back else paste * 0,
        told=told,
    )


def _floats(given: Given, pixels: torch.Tensor) -> Floats | None:
    """``(H, W, 3)`` in 0 … 1: the canvas' numbers before they are rounded; None: the image's are not known.

    pixels: ``(3, H, W)`` in 0 … 1, of the canvas.
    """
    if given.image is None or given.image.floats is None:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _degrees(options: EditOptions, width: int) -> tuple[float, float]:
    """Growth and softness."""
    one = 360 / width
    grow = GROWN * one if options.mask_grow is None else options.mask_grow
    return grow, SOFT * one if options.mask_soften is None else options.mask_soften


def _pose(given: Given) -> Pose:
    if given.image is None:
        poses = [photo.pose for photo in given.photos if photo.pose is not None]
        return attrs.evolve(poses[0], others={}) if len(poses) == 1 else MADE
    return attrs.evolve(given.image.pose, others={})


def _hole(given: Given, size: tuple[int, int]) -> torch.Tensor | None:
    """``(H, W)`` in 0 … 1: what of the image is to be made anew; None: nobody says."""
    assert given.image is not None
    found = []
    if given.hole is not None:
        found.append(torch.from_numpy(levels_of(given.hole, size)))
    if given.image.hole is not None:
        found.append(torch.from_numpy(levels_of(given.image.hole, size)))
    if given.options.region is not None:
        yaw, pitch, fov = region_of(given.options.region)
        found.append(looked_at(Camera(width=1, height=1, fov=fov, yaw=yaw, pitch=pitch), size[1]))
    return torch.stack(found).max(0).values if found else None


def looked_at(camera: Camera, height: int) -> torch.Tensor:
    """``(H, W)``: 1 where a camera looks, 0 elsewhere.

    height: of the panorama, in pixels.
    """
    seen = directions(height)
    region = project(camera, seen)[1].float()
    # A view that is smaller than a pixel is the one that it lies in.
    region.view(-1)[(seen @ rotation(camera)[:, 2]).argmax()] = 1
    return region


def held_latents(keep: torch.Tensor) -> torch.Tensor:
    """``(1, 1, H/8, W/8)``: how much of each latent is held, where so much of its pixels is kept.

    keep: ``(H, W)`` in 0 … 1.

    No more than of any of them: what is to be made must not shine through.
    """
    return -F.max_pool2d(-keep[None, None], 8)


def around_hole(
    hole: torch.Tensor,
    grow: float,
    soften: float,
    feather: float,
    shape: Callable[[torch.Tensor], torch.Tensor] = lambda share: share,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much is kept around a hole, and how much pasted back: the hole grows, and passes softly into the rest.

    hole: ``(H, W)`` in 0 … 1. Greys stay greys, and half and more of white counts as the hole.
    grow, soften, feather: degrees.
    shape: of the passage, 0 … 1 → 0 … 1.
    """
    if not bool(hole.any()):
        return torch.ones_like(hole), torch.ones_like(hole)
    away = distance(hole >= 0.5, grow + soften + feather)
    ramp = shape((1 - (away - grow) / max(soften, 1e-6)).clamp(0, 1))
    keep = 1 - torch.maximum(hole, ramp)
    return keep, pasting_share(keep, feather)


def pasting_share(keep: torch.Tensor, feather: float) -> torch.Tensor:
    """``(H, W)`` in 0 … 1: how much of each pixel is pasted back. 1: bit for bit.

    keep: ``(H, W)`` in 0 … 1; where it is below 1 nothing can be pasted.
    feather: degrees over which what is pasted fades, inside of what is kept; 0: a hard edge.
    """
    if feather <= 0:
        return (keep == 1).float()
    # Distances in a large panorama are interpolated, and those of what is made anew itself may be a little above 0.
    return smoothed(distance(keep < 1, feather) / feather) * (keep == 1)


def around_photo(
    shown: torch.Tensor, beyond: float, soften: float, feather: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much is kept around photos, and how much pasted back.

    All of a photo is kept: what was filled in around it passes softly into what is made.

    shown: ``(H, W)`` in 0 … 1, how much of each pixel photos cover.
    beyond: degrees around them that are kept too; below 0, degrees inside their edges that are not.
    soften, feather: degrees.
    """
    whole = shown == 1
    if beyond < 0:
        whole &= distance(~whole, -beyond) > -beyond
    beyond = max(0.0, beyond)
    if not bool(whole.any()) or bool(whole.all()):
        return whole.float(), whole.float()
    away = distance(whole, beyond + soften)
    keep = (1 - (away - beyond) / max(soften, 1e-6)).clamp(0, 1)
    return keep, pasting_share(whole.float(), feather)


def smoothed(share: torch.Tensor) -> torch.Tensor:
    """0 … 1 without corners; 1 from 1 on."""
    t = share.clamp(0, 1)
    return t * t * (3 - 2 * t)


def share_of(area: torch.Tensor) -> float:
    """Of the sphere that an area has."""
    height = area.shape[0]
    latitude = (0.5 - (torch.arange(height) + 0.5) / height) * torch.pi
    weight = torch.cos(latitude)[:, None].expand_as(area)
    return float((area * weight).sum() / weight.sum())
