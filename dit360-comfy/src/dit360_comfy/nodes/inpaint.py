"""DiT360Inpaint: what a mask covers of a panorama is made anew, and the rest stays as it is."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from dit360_core.options import SampleOptions, check_size
from dit360_core.pipeline.editing.canvas import FEATHER, GROWN, around_hole, held_latents, smoothed
from dit360_core.pipeline.holding import Hold
from dit360_core.pipeline.pipeline import Pipeline

from dit360_comfy import host
from dit360_comfy.edges import BLEND_MODES
from dit360_comfy.inputs import Control, Spec, specs
from dit360_comfy.laying import Kept, keeping, kept_of, laid_of
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.nodes.controls import (
    ADVANCED,
    CONSISTENCY,
    FREE,
    PADDING,
    REFERENCE,
    SEED,
    SOLVING,
    WORDS,
    check_sampling,
    guidance,
    sample_options,
    steps,
)
from dit360_comfy.nodes.painting import Start, encoded, facts_of, paint, referred, shown_of, tell, told_of
from dit360_comfy.nodes.spherical import degrees
from dit360_comfy.pictures import at_size, masks, of_batch, panoramas, tell_of_more
from dit360_comfy.pipe import pipe_of

if TYPE_CHECKING:
    import torch

_DENOISE = Control(
    options=SampleOptions, option="denoise", settings={"step": 0.01},
    tooltip="How much of what the mask covers is made anew: 1 all of it, from noise; 0.6 or so begins with what is "
    "there, or with what was filled in.",
)  # fmt: skip
_SHAPES: dict[str, Callable[[Any], Any]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - (math.pi * share).cos()) / 2,
    "smooth": smoothed,
}


class DiT360Inpaint(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Inpaint"
    DESCRIPTION = (
        "Makes anew what a mask covers of a panorama, over the meridian and the poles too, and holds the rest where it "
        "is: in no more time than a panorama without a mask takes. Decode it with DiT360 Decode, then DiT360 Paste "
        "Back gives what was kept its own pixels again."
    )
    RETURN_TYPES = ("LATENT", "MASK")
    RETURN_NAMES = ("latent", "mask")
    OUTPUT_TOOLTIPS = (
        "The panorama before decoding.",
        "What was made anew, as it grew and was softened: for DiT360 Paste Back.",
    )
    FREE: ClassVar[tuple[str, ...]] = FREE
    WORDS: ClassVar[Mapping[str, str]] = WORDS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "conditioning": ("CONDITIONING", {
                    "tooltip": "The prompt: the whole panorama as it is to be, not only the part.",
                }),
                "image": ("IMAGE", {
                    "tooltip": "The panorama, twice as wide as high in multiples of 16 pixels; of a photo, that of "
                    "DiT360 Photo to Panorama.",
                }),
                "mask": ("MASK", {
                    "tooltip": "What is made anew: 1, white. Painted in Preview 360° Panorama, of DiT360 Region Mask, "
                    "or of a picture's transparency by Load Image. One of another size is resized, if it is 2:1.",
                }),
                **specs((steps(200), guidance(), _DENOISE)),
                "blur_radius": ("INT", {
                    "default": 10, "min": 0, "max": 50, "step": 1,
                    "tooltip": "Pixels beyond the mask over which what is made passes into what is kept. 0: a hard "
                    "edge. A mask of DiT360 Photo to Panorama has its own.",
                }),
                "blend_mode": (list(BLEND_MODES), {"default": "cosine", "tooltip": "How it passes."}),
            },
            "optional": {
                **specs((SEED,)),
                # Ours come after those that other packs' nodes of this name have.
                "mask_grow": degrees(
                    -1.0, -1.0, 90.0,
                    "Degrees by which the mask grows before that, so that nothing of an object shines through. -1: 8 "
                    "pixels of the panorama.", 0.5,
                ),
                **specs((PADDING,)),
                **CONSISTENCY,
                **specs((*SOLVING, REFERENCE), advanced=ADVANCED),
                "negative": ("CONDITIONING", {
                    "tooltip": "What it must not show, instead of negative_prompt; needs true_guidance above 1.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        check_sampling(sample_options(given, (_DENOISE,)))

    def run(
        self, dit360_pipe: Any, conditioning: Any, image: Any, mask: Any, blur_radius: int, blend_mode: str,
        mask_grow: float = -1.0, reference: str = "auto", negative: Any = None, **given: Any,
    ) -> dict[str, Any]:  # fmt: skip
        import torch

        pipe = pipe_of(dit360_pipe)
        planes, levels = panoramas(image, "image"), masks(mask, "mask")
        width, height = int(planes.shape[-1]), int(planes.shape[-2])
        check_size(width, height)
        tell_of_more(levels, "mask", len(planes), "image")
        with host.plain_mode():
            parts = [
                _part(mask, of_batch(levels, at), at, (width, height), mask_grow, blur_radius, blend_mode)
                for at in range(len(planes))
            ]
        facts = facts_of(pipe)
        refers = facts.refers and reference == "auto"

        def begin(pipeline: Pipeline, options: dict[str, Any]) -> list[Start]:
            begun = []
            for at, (one, part) in enumerate(zip(planes, parts, strict=True)):
                latents = encoded(pipe, pipeline, one)
                photos = [photo.as_dict() for photo in getattr(laid_of(image, at), "photos", ())]
                told = {**part.told, **({"photos": photos} if photos else {})}
                shown = shown_of(pipe, pipeline, one, part.kept.unknown) if facts.fills else None
                seen = referred(pipe, pipeline, one, part.kept.unknown) if refers else None
                hold = Hold(latents=latents, keep=part.kept.latents, told=told)
                begun.append(Start(image=latents, hold=hold, shown=shown, reference=seen))
            return begun

        options = {"seed": secrets.randbits(32), **sample_options(given, (_DENOISE,))}
        made, told = paint(pipe, conditioning, negative, given, options, begin)
        where = keeping(torch.stack([part.made for part in parts]), [part.kept for part in parts])
        return {"ui": {"text": [told]}, "result": (made, where)}


@attrs.frozen(kw_only=True, eq=False)
class _Part:
    """What of a panorama is made anew.

    made: ``(H, W)`` in 0 … 1, how much of each pixel.
    kept: of the rest.
    told: for metadata.
    """

    made: torch.Tensor
    kept: Kept
    told: Mapping[str, Any]


def _part(
    mask: Any, levels: torch.Tensor, at: int, size: tuple[int, int], grow: float, blur: int, shape: str
) -> _Part:  # fmt: skip
    """levels: ``(h, w)``, the mask of the picture ``at``.

    size: (width, height) of the picture in pixels.
    grow: degrees; below 0: some pixels.
    blur: pixels.
    """
    one = 360 / size[0]
    kept = kept_of(mask, at)
    if kept is not None and tuple(kept.paste.shape) == (size[1], size[0]):
        tell(1 - levels)
        return _Part(made=levels, kept=kept, told=told_of(1 - levels))
    hole = at_size(levels, size, "mask")
    wide, soft = (GROWN * one if grow < 0 else grow), blur * one
    keep, paste = around_hole(hole, wide, soft, FEATHER * one, _SHAPES[shape])
    tell(keep)
    told = {**told_of(keep), "mask_grow": round(wide, 4), "mask_soften": round(soft, 4), "blend_mode": shape}
    return _Part(
        made=1 - keep, kept=Kept(latents=held_latents(keep), paste=paste, unknown=(keep < 0.5).float()), told=told
    )


NODES: dict[str, type[Any]] = {"DiT360Inpaint": DiT360Inpaint}
