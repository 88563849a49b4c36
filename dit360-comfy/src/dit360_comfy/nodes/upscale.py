"""DiT360Upscale: a panorama becomes a larger one, with new detail that is made in windows on the sphere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from dit360_core.options import LargerOptions, SampleOptions, build
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.pipeline.editing.canvas import held_latents
from dit360_core.pipeline.holding import Hold
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.upscaling import Keeping
from dit360_core.planning.larger import MOST, check_wider, check_width, steps_of

from dit360_comfy import host
from dit360_comfy.inputs import Control, Spec, asked, specs
from dit360_comfy.keeping import keeping
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.nodes.controls import (
    ADVANCED,
    FREE,
    PADDING,
    SEED,
    SOLVING,
    WORDS,
    check_sampling,
    guidance,
    sample_options,
    steps,
)
from dit360_comfy.nodes.painting import Start, encoded, hold_of, paint
from dit360_comfy.pictures import at_size, masks, of_batch, panoramas, tell_of_more
from dit360_comfy.pipe import pipe_of

_DENOISE = Control(
    options=SampleOptions, option="denoise", settings={"step": 0.01, "default": USUAL_LARGER["denoise"]},
    tooltip="How much is made anew: less keeps more of the picture, more invents more.",
)  # fmt: skip
_WINDOWS = Control(
    options=SampleOptions, option="windows", settings={"default": USUAL_LARGER["windows"]},
)  # fmt: skip
_SOLVING = (_WINDOWS, *(control for control in SOLVING if control.option != "windows"))
_FAITHFUL = Control(options=LargerOptions, option="faithful")
_STEPS = attrs.evolve(
    steps(150), tooltip="Steps of the part that is made anew. 0: the model's times denoise, at least 4."
)


class DiT360Upscale(Node):
    CATEGORY = "dit360/edit"
    DISPLAY_NAME = "DiT360 Upscale"
    DESCRIPTION = (
        "Makes a panorama larger, up to 16384×8192, with new detail and without a seam: it is resampled, and a part of "
        "the way is sampled anew in windows of the model's own size, in the memory of one window. Decode it with "
        "DiT360 Decode."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The larger panorama before decoding.",)
    FREE: ClassVar[tuple[str, ...]] = FREE
    WORDS: ClassVar[Mapping[str, str]] = {**WORDS, "to": "width"}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "conditioning": ("CONDITIONING", {"tooltip": "The prompt that the panorama was made with."}),
                "image": ("IMAGE", {"tooltip": "The panorama, twice as wide as high."}),
                "width": ("INT", {
                    "default": 4096, "min": 64, "max": MOST, "step": 32,
                    "tooltip": "Width of the larger panorama in pixels; its height is half of that.",
                }),
                **specs((_DENOISE, _STEPS, guidance(), SEED)),
            },
            "optional": {
                "mask": ("MASK", {
                    "tooltip": "Where detail is made: 1, white. Elsewhere it is the resampled picture, as the "
                    "autoencoder has it; DiT360 Paste Back brings its very pixels back.",
                }),
                **specs((PADDING,)),
                **specs(_SOLVING, advanced=ADVANCED),
                # At the end, since saved workflows hold values by their place.
                **specs((_FAITHFUL,), advanced=(_FAITHFUL.option,)),
                "negative": ("CONDITIONING", {
                    "tooltip": "What it must not show, instead of negative_prompt; needs true_guidance above 1.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        if given.get("width") is not None:
            check_width(given["width"])
        check_sampling(sample_options(given, (_DENOISE,)))
        build(LargerOptions, asked((_FAITHFUL,), given))

    def run(
        self, dit360_pipe: Any, conditioning: Any, image: Any, width: int, mask: Any = None, negative: Any = None,
        **given: Any,
    ) -> dict[str, Any]:  # fmt: skip
        import torch

        pipe = pipe_of(dit360_pipe)
        planes = panoramas(image, "image")
        check_wider(width, int(planes.shape[-1]))
        levels = None if mask is None else masks(mask, "mask")
        if levels is not None:
            tell_of_more(levels, "mask", len(planes), "image")
        share = given.get("denoise", USUAL_LARGER["denoise"])
        options: dict[str, Any] = {
            **USUAL_LARGER, **sample_options(given, (_DENOISE,)), "width": width, "height": width // 2,
        }  # fmt: skip

        enlarging = build(LargerOptions, asked((_FAITHFUL,), given))
        kept = [Keeping.of(enlarging, one.movedim(0, -1).contiguous().numpy(), share) for one in planes]

        def begin(pipeline: Pipeline, options: dict[str, Any]) -> list[Start]:
            # Those of a whole run, and of it the part that is made anew, unless the node says how many.
            options.setdefault("steps", steps_of(pipeline.plan.model.steps, share))
            begun = []
            for at, one in enumerate(kept):
                large = torch.from_numpy(one.resampled(width))
                latents = encoded(pipe, pipeline, large.movedim(-1, 0).contiguous())
                begun.append(Start(image=latents, hold=None if levels is None else _hold(latents, levels, at, width)))
            return begun

        with host.plain_mode():
            made, told = paint(pipe, conditioning, negative, given, options, begin)
            keeping(made["samples"], kept)
        return {"ui": {"text": [told]}, "result": (made,)}


def _hold(latents: Any, levels: Any, at: int, width: int) -> Hold:
    """What a mask keeps of the panorama ``at``, which is made ``width`` pixels wide."""
    keep = held_latents(1 - at_size(of_batch(levels, at), (width, width // 2), "mask"))
    return hold_of(latents, keep)


NODES: dict[str, type[Any]] = {"DiT360Upscale": DiT360Upscale}
