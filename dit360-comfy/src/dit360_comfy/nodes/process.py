"""Equirect360Process: a picture from elsewhere becomes a panorama's shape, with an edge that does not show."""

from __future__ import annotations

from typing import Any

from dit360_comfy import host
from dit360_comfy.edges import BLEND_MODES, FIX_MODES, blended, fitted
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node
from dit360_comfy.pictures import check_pictures
from dit360_comfy.settings import recall, remember


class Equirect360Process(Node):
    DISPLAY_NAME = "Equirect 360 Process"
    DESCRIPTION = (
        "Makes a picture twice as wide as high, and evens out the step from its right edge to its left one. What a "
        "DiT360 Decode made needs neither, and stays as it is."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The panorama.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "One picture or several of one size."}),
                "enforce_2_1_ratio": ("BOOLEAN", {"default": True, "tooltip": "Make it twice as wide as high, by "
                "fix_mode."}),
                "fix_mode": (list(FIX_MODES), {
                    "default": "pad",
                    "tooltip": "How: crop what is too much, pad by repeating the outermost rows or columns, stretch, "
                    "or none: stop with an error.",
                }),
                "blend_edges": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Take the step over the edge out, where it shows (seam ratio above 1.25). Other "
                    "pictures are left as they are.",
                }),
                "blend_width": ("INT", {
                    "default": 10, "min": 0, "max": 100, "step": 1,
                    "tooltip": "Columns on either side, in pixels, over which the correction fades.",
                }),
                "blend_mode": (list(BLEND_MODES), {"default": "cosine", "tooltip": "How it fades."}),
            },
        }  # fmt: skip

    def run(
        self, image: Any, enforce_2_1_ratio: bool, fix_mode: str, blend_edges: bool, blend_width: int, blend_mode: str
    ) -> tuple[Any]:
        check_pictures(image, "image")
        settings = [dict(told) for told in recall(image)]
        pixels = host.plain(image)
        changed = pixels
        if enforce_2_1_ratio:
            changed = fitted(changed, fix_mode)
            if changed is not pixels:
                for told in settings:
                    told["fitted"] = {"mode": fix_mode, "from": list(reversed(pixels.shape[1:3]))}
        if blend_edges:
            changed, reports = blended(changed, blend_width, blend_mode)
            for told, report in zip(settings, reports, strict=True):
                told["edges"] = report
        return (remember(changed, settings),)


NODES: dict[str, type[Any]] = {"Equirect360Process": Equirect360Process}
