"""DiT360RegionMask and DiT360GrowMask: masks whose distances are degrees on the sphere, over meridian and poles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.pipeline.editing.canvas import around_hole, looked_at
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.distance import distance

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import check_asked, degrees, placing, size_inputs, size_of, sized_by
from dit360_comfy.pictures import at_size, masks, panoramas


class DiT360RegionMask(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Region Mask"
    DESCRIPTION = (
        "Masks what a camera sees of a panorama: 1 there, which means to make it anew. It may lie over the meridian or "
        "a pole. Connect further ones to mask, for several regions in one."
    )
    RETURN_TYPES = ("MASK",)
    OUTPUT_TOOLTIPS = ("1 in the region, 0 elsewhere, at the panorama's size.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        where = placing(60.0, "region", "Degrees that the region is wide and high.", roll=False)
        return {
            "required": {
                # In the order in which --region has them.
                **{name: where[name] for name in ("yaw", "pitch", "fov")},
                "grow": degrees(0.0, 0.0, 90.0, "Degrees by which the region grows on all sides.", 0.5),
                "soften": degrees(0.0, 0.0, 90.0, "Degrees beyond that over which it fades. 0: a hard edge.", 0.5),
                **size_inputs("the picture or the model that is connected"),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "The panorama, whose size is taken where width and height are 0."}),
                "mask": ("MASK", {"tooltip": "Another mask, which is joined to the region before it grows."}),
                "dit360_pipe": sized_by(),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        check_asked(given)

    def run(
        self, yaw: float, pitch: float, fov: float, grow: float, soften: float, width: int, height: int,
        image: Any = None, mask: Any = None, dit360_pipe: Any = None,
    ) -> tuple[Any]:  # fmt: skip
        import torch

        with host.plain_mode():
            beside = None
            if image is not None:
                planes = panoramas(image, "image")
                beside = (int(planes.shape[-1]), int(planes.shape[-2]))
            size = size_of(width, height, dit360_pipe, beside)
            camera = Camera(width=1, height=1, fov=fov, yaw=yaw, pitch=pitch)
            region = looked_at(camera, size[1])
            several = [region]
            if mask is not None:
                several = [torch.maximum(region, at_size(one, size, "mask")) for one in masks(mask, "mask")]
            return (torch.stack([_grown(one, grow, soften) for one in several]),)


class DiT360GrowMask(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Grow Mask"
    DESCRIPTION = (
        "Grows or shrinks a panorama's mask, and softens it, by degrees on the sphere. ComfyUI's Grow Mask and blurs "
        "stop at the picture's edges and stretch near the poles; this goes on behind them."
    )
    RETURN_TYPES = ("MASK",)
    OUTPUT_TOOLTIPS = ("The mask, as large as it was.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "Of a panorama, twice as wide as high; 1 is made anew."}),
                "grow": degrees(2.0, -90.0, 90.0, "Degrees by which it grows; below 0 it shrinks.", 0.5),
                "soften": degrees(0.0, 0.0, 90.0, "Degrees beyond that over which it fades. 0: a hard edge.", 0.5),
                "invert": ("BOOLEAN", {
                    "default": False, "tooltip": "Swap what is made anew and what is kept, before it grows.",
                }),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "A panorama, at whose size the mask is wanted."}),
            },
        }  # fmt: skip

    def run(self, mask: Any, grow: float, soften: float, invert: bool, image: Any = None) -> tuple[Any]:
        import torch

        with host.plain_mode():
            levels = masks(mask, "mask")
            size = (int(levels.shape[-1]), int(levels.shape[-2]))
            if image is not None:
                planes = panoramas(image, "image")
                size = (int(planes.shape[-1]), int(planes.shape[-2]))
            elif size[0] != 2 * size[1]:
                size = (2 * size[1], size[1])  # which is refused, unless it says the same everywhere
            sized = [at_size(one, size, "mask") for one in levels]
            return (torch.stack([_grown(1 - one if invert else one, grow, soften) for one in sized]),)


def _grown(mask: Any, grow: float, soften: float) -> Any:
    """``(H, W)``: a mask of that shape, grown by degrees, and softened beyond that."""
    if grow < 0:
        # What is kept grows, and greys of the mask become no part of it.
        far = distance(mask < 0.5, -grow) > -grow
        mask = mask * far
    if grow <= 0 and soften <= 0:
        return mask
    keep, _ = around_hole(mask, max(0.0, grow), soften, 0.0)
    return 1 - keep


NODES: dict[str, type[Any]] = {"DiT360RegionMask": DiT360RegionMask, "DiT360GrowMask": DiT360GrowMask}
