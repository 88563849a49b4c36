"""DiT360PanoramaToView and DiT360ViewToPanorama: a flat view of a panorama, to edit with anything and to put back."""

from __future__ import annotations

import logging
import math
from typing import Any

import attrs
from dit360_core.errors import InputError
from dit360_core.pipeline.editing.canvas import pasting_share, smoothed
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.distance import distance
from dit360_core.sphere.views import onto_sphere, view

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import degrees, placing
from dit360_comfy.pictures import SHAPES_DIFFER, at_size, masks, of_batch, on_flat, panoramas, pictures, to_comfy
from dit360_comfy.settings import recall, remember

log = logging.getLogger("dit360")

_SHARP = 16
"""Sides of a view that is as sharp as its panorama are multiples of it, as most models like them."""
_MOST = 8192
"""Pixels along a view's longest side."""
_SAME = 1.5 / 255
"""Up to this a view's pixels are as they were seen: files round them to 8 bits."""


class DiT360PanoramaToView(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Panorama to View"
    DESCRIPTION = (
        "What a camera in the middle of a panorama sees: a flat picture, without distortion, for any node and any "
        "model that edits pictures. DiT360 View to Panorama puts it back."
    )
    RETURN_TYPES = ("IMAGE", "MASK", "DIT360_VIEW")
    RETURN_NAMES = ("image", "mask", "camera")
    OUTPUT_TOOLTIPS = (
        "The view.",
        "What the camera sees of the mask; nothing is masked if none is connected.",
        "The camera, for DiT360 View to Panorama, which then needs no angles.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        side = {"min": 0, "max": _MOST, "step": 16}
        return {
            "required": {
                "panorama": ("IMAGE", {"tooltip": "Twice as wide as high."}),
                **placing(90.0, "view", "Degrees that the view shows over its longer side."),
                "width": ("INT", {
                    "default": 1024, **side,
                    "tooltip": "Width of the view in pixels. 0: the height, or as sharp as the panorama.",
                }),
                "height": ("INT", {"default": 1024, **side, "tooltip": "Height of the view in pixels. 0: the width."}),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "A mask of the panorama, to see in the same way."}),
            },
        }  # fmt: skip

    def run(
        self, panorama: Any, fov: float, yaw: float, pitch: float, roll: float, width: int, height: int,
        mask: Any = None,
    ) -> tuple[Any, Any, Camera]:  # fmt: skip
        import torch

        with host.plain_mode():
            planes = panoramas(panorama, "panorama")
            rows = int(planes.shape[-2])
            if not (width or height):
                width = _SHARP * math.ceil(2 * math.tan(math.radians(fov) / 2) * rows / math.pi / _SHARP)
                width = min(_MOST, width)
            camera = Camera(width=width or height, height=height or width, fov=fov, yaw=yaw, pitch=pitch, roll=roll)
            seen = []
            for one in planes:
                host.check_interrupt()
                seen.append(view(one, camera).clamp(0, 1))
            if mask is None:
                return to_comfy(seen), torch.zeros(1, camera.height, camera.width), camera
            masked = [
                view(at_size(one, (2 * rows, rows), "mask")[None], camera)[0].clamp(0, 1) for one in masks(mask, "mask")
            ]
            return to_comfy(seen), torch.stack(masked), camera


class DiT360ViewToPanorama(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 View to Panorama"
    DESCRIPTION = (
        "Puts a view, edited or not, back where DiT360 Panorama to View saw it. Outside of the view the panorama stays "
        "as it is, bit for bit."
    )
    RETURN_TYPES = ("IMAGE", "MASK")
    OUTPUT_TOOLTIPS = ("The panorama with the view.", "Where the view is: 1 inside, fading at its edge.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "panorama": ("IMAGE", {"tooltip": "That the view is of."}),
                "view": ("IMAGE", {
                    "tooltip": "The edited view. It may be of another size than the one that was edited, as after "
                    "upscaling, but of the same shape.",
                }),
                **placing(90.0, "view", "Degrees that the view shows over its longer side, as it was seen with."),
                "feather": degrees(
                    2.0, 0.0, 45.0, "Degrees inside of the view's edge over which it fades in. 0: a hard edge.", 0.5,
                ),
            },
            "optional": {
                "only_changes": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Leave the panorama as it is, bit for bit, where the view is as it was seen: what "
                    "changed fades by feather into that. Off: put back all of the view.",
                }),
                "camera": ("DIT360_VIEW", {
                    "tooltip": "The camera of DiT360 Panorama to View; fov, yaw, pitch and roll are then not used.",
                }),
                "mask": ("MASK", {"tooltip": "Of the view: only what is masked is put back, and fades by feather."}),
            },
        }  # fmt: skip

    def run(
        self, panorama: Any, view: Any, fov: float, yaw: float, pitch: float, roll: float, feather: float,
        only_changes: bool = True, camera: Any = None, mask: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        import torch

        with host.plain_mode():
            planes, views = panoramas(panorama, "panorama"), pictures(view, "view")
            high, wide = (int(side) for side in views.shape[-2:])
            eye = _camera(camera, wide, high) or Camera(
                width=wide, height=high, fov=fov, yaw=yaw, pitch=pitch, roll=roll
            )
            levels = None if mask is None else masks(mask, "mask")
            count = max(len(planes), len(views))
            made, where = [], []
            for at in range(count):
                host.check_interrupt()
                own, edited = of_batch(planes, at), of_batch(views, at)
                shown, covered = onto_sphere(edited, eye, int(own.shape[-2]))
                inside = (covered == 1).float()
                if levels is not None:
                    masked = on_flat(of_batch(levels, at), (wide, high), "mask")
                    if not bool((masked >= 0.5).any()):
                        log.warning(
                            "mask covers nothing of the view, so nothing is put back; leave it unconnected for all."
                        )
                    # What is masked to half and more, so that where nothing is nothing is changed.
                    inside *= (onto_sphere(masked[None], eye, int(own.shape[-2]))[0][0] >= 0.5).float()
                share = pasting_share(inside, feather)
                if only_changes:
                    share = share * _changes(own, edited, eye, feather)
                mixed = share * shown.clamp(0, 1) + (1 - share) * own
                made.append(torch.where(share > 0, mixed, own))
                where.append(share)
            found = to_comfy(made)
            if count == len(planes):
                remember(found, recall(panorama))
            return found, torch.stack(where)


def _changes(own: Any, edited: Any, eye: Camera, feather: float) -> Any:
    """``(H, W)`` in 0 … 1: where a view is another one than is seen of the panorama; it fades around that.

    own: ``(3, H, W)``, the panorama.
    edited: ``(3, h, w)``, the view.
    feather: degrees.
    """
    import torch

    height = int(own.shape[-2])
    other = ((view(own, eye).clamp(0, 1) - edited).abs().amax(0) > _SAME).float()
    # A pixel that shows any of it, whichever of both pictures is the finer one.
    wide = torch.nn.functional.max_pool2d(other[None], 3, 1, 1)
    laid, covered = onto_sphere(wide, eye, height)
    changed = (laid[0] * covered > 1e-3) & (covered > 0)
    away = distance(changed, feather + 180 / height)
    return 1 - smoothed(away / max(feather, 180 / height)) if bool(changed.any()) else torch.zeros_like(covered)


def _camera(given: Any, width: int, height: int) -> Camera | None:
    """The camera that is connected, for a view of that size; None: none is.

    Raises InputError for a view of another shape, or for what is no camera.
    """
    if given is None:
        return None
    if not isinstance(given, Camera):
        raise InputError(f"camera is a {type(given).__name__}; connect that of DiT360 Panorama to View.")
    # Sizes that models round may be off by some pixels.
    if abs(width / height / (given.width / given.height) - 1) > SHAPES_DIFFER:
        raise InputError(
            f"view has {width}×{height} pixels, and its camera saw {given.width}×{given.height}; crop or resize it to "
            "the same shape."
        )
    return attrs.evolve(given, width=width, height=height)


NODES: dict[str, type[Any]] = {
    "DiT360PanoramaToView": DiT360PanoramaToView,
    "DiT360ViewToPanorama": DiT360ViewToPanorama,
}
