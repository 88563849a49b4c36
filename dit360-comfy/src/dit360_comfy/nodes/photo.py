"""DiT360PhotoToPanorama: a photo where it lies on the sphere, and a mask of what is to be made around it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import attrs
from dit360_core.errors import InputError
from dit360_core.options import check_size
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.editing.canvas import canvas_of
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.planes import image_of

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.laying import Kept, keeping, kept_of, laid, laid_of
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import check_asked, placing, size_inputs, size_of, sized_by
from dit360_comfy.pictures import (
    at_size,
    grey,
    masks,
    of_batch,
    on_flat,
    panoramas,
    pictures,
    resized,
    tell_of_more,
    to_comfy,
)

log = logging.getLogger("dit360")


class DiT360PhotoToPanorama(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Photo to Panorama"
    DESCRIPTION = (
        "Puts a photo where it lies on the sphere, fills what is around it with its colours, and masks that: DiT360 "
        "Inpaint makes the rest, and DiT360 Paste Back gives the photo its own pixels again. A second one joins the "
        "first."
    )
    RETURN_TYPES = ("IMAGE", "MASK")
    OUTPUT_TOOLTIPS = (
        "The panorama as far as it is known, with what is not filled in.",
        "What is to be made anew: 1 where no photo is.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The photo. Several of one size make a panorama each."}),
                **placing(
                    65.0,
                    "photo",
                    "Degrees that the photo shows over its longer side: about 65 for most phones, 100 for a wide "
                    "angle, 25 for a telephoto lens. 2·atan(18 / f) for a lens of f mm on 35 mm film.",
                ),
                **size_inputs("the panorama or the model that is connected"),
            },
            "optional": {
                "panorama": ("IMAGE", {
                    "tooltip": "What the photo joins: the panorama of another DiT360 Photo to Panorama, or any.",
                }),
                "mask": ("MASK", {
                    "tooltip": "What of that panorama is to be made anew: the mask of the node that gives it, or one "
                    "that is painted. Without one, all but the photo: begin with the panorama by a denoise below 1.",
                }),
                "dit360_pipe": sized_by(),
                "photo_mask": ("MASK", {
                    "tooltip": "What the photo does not show: 1, as Load Image gives it where a picture is "
                    "transparent. It is made anew.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        check_asked(given)
        if "mask" in given and "panorama" not in given:
            raise InputError(
                "mask says what of a panorama is to be made anew, and no panorama is connected; connect that, or "
                "leave the mask out."
            )

    def run(
        self, image: Any, fov: float, yaw: float, pitch: float, roll: float, width: int, height: int,
        panorama: Any = None, mask: Any = None, dit360_pipe: Any = None, photo_mask: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        import torch

        with host.plain_mode():
            photos = pictures(image, "image")
            beneath = None if panorama is None else panoramas(panorama, "panorama")
            beside = None if beneath is None else (int(beneath.shape[-1]), int(beneath.shape[-2]))
            size = size_of(width, height, dit360_pipe, beside)
            check_size(*size)
            if beneath is not None:
                tell_of_more(beneath, "panorama", len(photos), "image")
            given = []
            for at, photo in enumerate(photos):
                host.check_interrupt()
                known = self._beneath(panorama, beneath, mask, at, size)
                name = f"photo {len(known.photos) + 1}" if known.photos else "the photo"
                placed = Photo(
                    image_of(photo), fov=fov, yaw=yaw, pitch=pitch, roll=roll, name=name,
                    opaque=_opaque(photo_mask, photo, at),
                )  # fmt: skip
                given.append(attrs.evolve(known, photos=(*known.photos, placed)))
            canvases = [canvas_of(one, size) for one in given]
            made = torch.stack([canvas.made for canvas in canvases])
            found = to_comfy([canvas.pixels[0] for canvas in canvases])
            kept = [Kept(latents=canvas.keep, paste=canvas.paste, unknown=canvas.unknown) for canvas in canvases]
            return laid(found, given), keeping(made, kept)

    @staticmethod
    def _beneath(panorama: Any, planes: Any, mask: Any, at: int, size: tuple[int, int]) -> Given:
        """What the photo joins."""
        if planes is None:
            return Given()
        of_others = laid_of(panorama, at)
        if of_others is not None and (mask is None or kept_of(mask, at) is not None):
            return of_others
        own = of_batch(planes, at)
        if size != (own.shape[-1], own.shape[-2]):
            log.info("panorama has %d×%d pixels, and is resized to %d×%d.", own.shape[-1], own.shape[-2], *size)
            own = resized(own, size)
        hole = None if mask is None else grey(at_size(of_batch(masks(mask, "mask"), at), size, "mask"))
        return Given(image=Panorama(image=image_of(own), hole=hole))


def _opaque(photo_mask: Any, photo: Any, at: int) -> Any:
    """In grey, what a photo shows; None: all of it. Raises InputError if it shows nothing."""
    if photo_mask is None:
        return None
    hidden = on_flat(of_batch(masks(photo_mask, "photo_mask"), at), (photo.shape[-1], photo.shape[-2]), "photo_mask")
    if not bool((hidden < 1).any()):
        raise InputError("photo_mask covers all of the photo, so that it shows nothing; invert it, or leave it out.")
    return grey(1 - hidden) if bool(hidden.any()) else None


NODES: dict[str, type[Any]] = {"DiT360PhotoToPanorama": DiT360PhotoToPanorama}
