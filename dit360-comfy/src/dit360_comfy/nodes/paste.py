"""DiT360PasteBack: what was kept of a panorama gets its own pixels again."""

from __future__ import annotations

import logging
from typing import Any

from dit360_core.pipeline.editing.canvas import FEATHER, PHOTO_FEATHER, pasting_share
from dit360_core.pipeline.editing.laying import blended
from dit360_core.pipeline.editing.pasting import pasted_over

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.laying import kept_of, laid_of
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import degrees
from dit360_comfy.pictures import at_size, masks, of_batch, panoramas, resized, tell_of_more, to_comfy
from dit360_comfy.settings import recall, remember

log = logging.getLogger("dit360")


class DiT360PasteBack(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Paste Back"
    DESCRIPTION = (
        "Gives what was kept of a panorama its own pixels again, bit for bit, since the autoencoder changes all of "
        "them a little; a photo is pasted at full sharpness. Towards what was made anew it fades, and the colours "
        "there are brought to it."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The panorama.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The panorama that was made, as DiT360 Decode gives it."}),
                "original": ("IMAGE", {
                    "tooltip": "What it was made from. One of another size is resized; photos of DiT360 Photo to "
                    "Panorama are put on the sphere anew at the size of image.",
                }),
                "mask": ("MASK", {
                    "tooltip": "What was made anew (1): that of DiT360 Inpaint, of what it made the photo part of, or "
                    "the one that the sampler was given.",
                }),
                "match_colours": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Carry the colours at the rim of what is kept a little way into what was made.",
                }),
                "feather": degrees(
                    -1.0, -1.0, 45.0,
                    "Degrees inside of what is kept over which it fades. 0: a hard edge. -1: 8 pixels of the "
                    "panorama, 4 of a photo.", 0.1,
                ),
            },
        }  # fmt: skip

    def run(self, image: Any, original: Any, mask: Any, match_colours: bool, feather: float) -> tuple[Any]:
        with host.plain_mode():
            planes, owns, levels = panoramas(image, "image"), panoramas(original, "original"), masks(mask, "mask")
            size = (int(planes.shape[-1]), int(planes.shape[-2]))
            tell_of_more(owns, "original", len(planes), "image")
            tell_of_more(levels, "mask", len(planes), "image")
            made = []
            for at, one in enumerate(planes):
                host.check_interrupt()
                own, shown = _own(original, of_batch(owns, at), at, size)
                kept = kept_of(mask, at)
                if kept is not None and kept.paste.shape == one.shape[-2:]:
                    # Not what a mask leaves: around a photo that is filled in.
                    paste = kept.paste if feather < 0 else pasting_share((kept.paste > 0).float(), feather)
                else:
                    photos = kept is not None and shown is not None
                    keep = (shown == 1).float() if photos else 1 - at_size(of_batch(levels, at), size, "mask")
                    usual = (PHOTO_FEATHER if photos else FEATHER) * 360 / size[0]
                    paste = pasting_share(keep, usual if feather < 0 else feather)
                if not bool((paste > 0).any()):
                    log.warning("Nothing is pasted back: the mask keeps nothing.")
                made.append(pasted_over(one, own, paste, match=match_colours))
            settings = [{**told, "pasted_back": True} for told in recall(image)]
            return (remember(to_comfy(made), settings),)


def _own(original: Any, own: Any, at: int, size: tuple[int, int]) -> tuple[Any, Any]:
    """``(3, H, W)``: what the picture was made from, at its size; and ``(H, W)``, how much of it photos show there.

    The second is None where photos are not laid anew.
    """
    if (own.shape[-1], own.shape[-2]) == size:
        return own, None
    given = laid_of(original, at)
    if given is not None and given.image is None:
        pixels, shown = blended(given.photos, size[1])
        return shown * pixels + (1 - shown) * resized(own, size), shown
    log.info("original has %d×%d pixels, and is resized to %d×%d.", own.shape[-1], own.shape[-2], *size)
    return resized(own, size), None


NODES: dict[str, type[Any]] = {"DiT360PasteBack": DiT360PasteBack}
