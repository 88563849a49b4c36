"""DiT360Sampler: noise becomes the latents of a panorama."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions, check_size
from dit360_core.pipeline.editing.canvas import held_latents
from dit360_core.pipeline.holding import Hold
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Latents, Shown

from dit360_comfy import host
from dit360_comfy.conditioning import to_fill
from dit360_comfy.inputs import Control, Spec, specs
from dit360_comfy.latents import from_comfy, size_of
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
from dit360_comfy.nodes.painting import Start, decoded, facts_of, hold_of, paint, referred, shown_by, shown_in
from dit360_comfy.pictures import at_size, masks, of_batch, tell_of_more
from dit360_comfy.pipe import Pipe, pipe_of

log = logging.getLogger("dit360")

_REQUIRED = (
    Control(
        options=SampleOptions, option="width", unset=0, settings={"max": 8192, "step": 64},
        tooltip="Width in pixels. 0: twice the height, or the model's own.",
    ),
    Control(
        options=SampleOptions, option="height", unset=0, settings={"max": 4096, "step": 32},
        tooltip="Height in pixels, half the width. 0: that, or the model's own.",
    ),
    steps(150),
    guidance(),
    SEED,
    PADDING,
)  # fmt: skip
_DENOISE = Control(
    options=SampleOptions, option="denoise", settings={"step": 0.01},
    tooltip="How much of latent_image is made anew: 0 none of it, 1 all. At 1 it gives its size and nothing else.",
)  # fmt: skip
OWN = (*_REQUIRED, _DENOISE)
"""The inputs that are options of the core, beside those of ``controls.py``."""


class DiT360Sampler(Node):
    DISPLAY_NAME = "DiT360 Sampler"
    DESCRIPTION = (
        "Makes the latents of a panorama that continues over its left and right edge. Decode them with DiT360 Decode, "
        "which wraps too; ComfyUI's VAE Decode takes them, and leaves a seam. After a run it shows which size, steps, "
        "guidance and padding the model chose where an input leaves them to it."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The panorama before decoding, as ComfyUI's own latents of such a model.",)
    FREE: ClassVar[tuple[str, ...]] = FREE
    WORDS: ClassVar[Mapping[str, str]] = WORDS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "conditioning": ("CONDITIONING", {
                    "tooltip": "The prompt: of DiT360 Text Encode or ComfyUI's encoder for this model. Of several that "
                    "were combined, the mean is followed, each step asking about each.",
                }),
                **specs(_REQUIRED),
            },
            "optional": {
                "latent_image": ("LATENT", {
                    "tooltip": "A picture to begin with (denoise below 1), or only its size and number (denoise 1). "
                    "Where it has a mask, as of Set Latent Noise Mask, only what that covers is made anew.",
                }),
                **specs([_DENOISE]),
                **CONSISTENCY,
                **specs((*SOLVING, REFERENCE), advanced=ADVANCED),
                "negative": ("CONDITIONING", {
                    "tooltip": "What it must not show, instead of negative_prompt; needs true_guidance above 1.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        options = sample_options(given, OWN)
        try:
            check_size(options.get("width"), options.get("height"))
        except InputError as error:
            raise InputError(f"{error.sentence.rstrip('.')}, or leave height at 0.") from None
        if options.get("denoise", 1.0) < 1.0 and "latent_image" not in given:
            raise InputError(
                f"denoise is {options['denoise']:g}, which keeps a part of latent_image, and nothing is connected "
                "there; connect a DiT360 Encode to it, or set denoise to 1."
            )
        check_sampling(options)

    def run(
        self,
        dit360_pipe: Any,
        conditioning: Any,
        latent_image: Any = None,
        reference: str = "auto",
        negative: Any = None,
        **given: Any,
    ) -> dict[str, Any]:
        pipe = pipe_of(dit360_pipe)
        facts = facts_of(pipe)
        if facts.fills and to_fill(conditioning) is None and (latent_image or {}).get("noise_mask") is None:
            raise InputError(
                "This model fills a part of a picture, and none is given; use DiT360 Inpaint, or connect latents with "
                "a mask (Set Latent Noise Mask) to latent_image."
            )

        def begin(pipeline: Pipeline, options: dict[str, Any]) -> list[Start]:
            begun = _begin(pipeline, latent_image, options)
            if facts.fills:
                return [
                    attrs.evolve(start, shown=_shown(pipe, pipeline, conditioning, latent_image, at))
                    for at, start in enumerate(begun)
                ]
            if facts.refers and reference == "auto":
                return [
                    attrs.evolve(start, reference=_reference(pipe, pipeline, latent_image, at)) if start.hold else start
                    for at, start in enumerate(begun)
                ]
            return begun

        made, told = paint(pipe, conditioning, negative, given, sample_options(given, OWN), begin)
        if latent_image is not None and latent_image.get("noise_mask") is not None:
            # As of ComfyUI's own sampler, so that another one holds the same part.
            made["noise_mask"] = latent_image["noise_mask"]
        return {"ui": {"text": [told]}, "result": (made,)}


def _begin(pipeline: Pipeline, latent_image: Any, options: dict[str, Any]) -> list[Start]:
    """What each picture begins with; ``options`` get the size of it."""
    if latent_image is None:
        return [Start()]
    width, height, count = size_of(latent_image, pipeline)
    wanted = (options.get("width", width), options.get("height", height))
    if wanted != (width, height):
        raise InputError(
            f"latent_image has {width}×{height} pixels, and {wanted[0]}×{wanted[1]} are asked for; set width and "
            "height to 0, or to its size."
        )
    options |= {"width": width, "height": height}
    mask = latent_image.get("noise_mask")
    if options.get("denoise", 1.0) == 1.0 and mask is None:
        return [Start()] * count
    if not bool(latent_image["samples"].any()):
        what = "keeps a part of it; denoise is usually 1 then" if mask is None else "its mask keeps a part of it"
        log.warning("latent_image is empty, and %s.", f"denoise {what}" if mask is None else what)
    begun = from_comfy(latent_image, pipeline)
    if mask is None:
        return [Start(image=latents) for latents in begun]
    levels = masks(mask, "noise_mask")
    tell_of_more(levels, "noise_mask", count, "latent_image")
    return [Start(image=latents, hold=_held(latents, of_batch(levels, at))) for at, latents in enumerate(begun)]


def _held(latents: Latents, mask: Any) -> Hold:
    """What a mask keeps of latents: 1 of it is made anew. It has the size of the latents, or of their picture.

    latents: in model space.
    mask: ``(h, w)`` in 0 … 1.
    """
    keep = 1 - mask
    if tuple(mask.shape) != tuple(latents.tensor.shape[-2:]):
        keep = held_latents(1 - at_size(mask, latents.size, "noise_mask"))[0, 0]
    return hold_of(latents, keep[None, None])


def _shown(pipe: Pipe, pipeline: Pipeline, conditioning: Any, latent_image: Any, at: int) -> Shown:
    """What a model that fills is shown: what the conditioning says, or what the mask leaves of the latents."""
    found = shown_in(conditioning, pipeline, at)
    if found is not None:
        return found
    return shown_by(pipe, pipeline, _samples(latent_image, at), _mask(pipeline, latent_image, at))


def _reference(pipe: Pipe, pipeline: Pipeline, latent_image: Any, at: int) -> Latents:
    """What a model that refers is shown: what the mask leaves of the latents."""
    mask = _mask(pipeline, latent_image, at)
    pixels = decoded(pipe, _samples(latent_image, at), mask)
    return referred(pipe, pipeline, pixels, (mask >= 0.5).float())


def _samples(latent_image: Any, at: int) -> Any:
    return host.plain(latent_image["samples"][at : at + 1])


def _mask(pipeline: Pipeline, latent_image: Any, at: int) -> Any:
    """``(H, W)`` in 0 … 1, in pixels; 1 is made anew."""
    mask = of_batch(masks(latent_image["noise_mask"], "noise_mask"), at)
    width, height, _ = size_of(latent_image, pipeline)
    if tuple(mask.shape) == tuple(latent_image["samples"].shape[-2:]):
        side = height // int(mask.shape[0])
        mask = mask.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return at_size(mask, (width, height), "noise_mask")


NODES: dict[str, type[Any]] = {"DiT360Sampler": DiT360Sampler}
