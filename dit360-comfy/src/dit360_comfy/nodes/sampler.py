"""DiT360Sampler: noise becomes the latents of a panorama."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions, build, check_size
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Conditioning, Latents
from dit360_core.planning.checks import check_honoured
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import default_registry
from dit360_core.system.phases import PhaseKind

from dit360_comfy import host
from dit360_comfy.conditioning import UNKNOWN, conditioning_from, moved
from dit360_comfy.inputs import Control, Spec, asked, specs
from dit360_comfy.latents import from_comfy, size_of, to_comfy
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.pipe import Pipe, pipe_of
from dit360_comfy.resolved import summary_of

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
    Control(options=SampleOptions, option="steps", unset=0, settings={"max": 150}),
    Control(
        options=SampleOptions, option="guidance", name="cfg_scale", unset=-1.0, settings={"max": 20.0, "step": 0.1},
        tooltip="How closely to follow the prompt (FLUX's embedded guidance; 2.8 for DiT360). One that the "
        "conditioning brings, as of FluxGuidance, is used instead. -1: the model's.",
    ),
    Control(
        options=SampleOptions, option="seed",
        settings={"default": 0, "control_after_generate": True}, tooltip="Same seed, same picture. A batch counts up.",
    ),
    Control(options=SampleOptions, option="circular_padding", unset=-1),
)  # fmt: skip
_SECOND = (
    Control(options=SampleOptions, option="scheduler_type"),
    Control(options=SampleOptions, option="timestep_schedule"),
    Control(options=SampleOptions, option="scheduler_eta"),
    Control(options=SampleOptions, option="attention_backend"),
    Control(options=SampleOptions, option="attention_slice_size"),
    Control(options=SampleOptions, option="log_memory_stats"),
    Control(options=SampleOptions, option="true_guidance", settings={"step": 0.1}),
    Control(options=SampleOptions, option="circular_mode"),
    Control(options=SampleOptions, option="latent_rotation"),
    Control(options=SampleOptions, option="position_interpolation"),
)
_ADVANCED = ("true_guidance", "circular_mode", "latent_rotation", "position_interpolation", "log_memory_stats")
_YAW = Control(
    options=SampleOptions, option="yaw_consistency", name="yaw_loss_weight", settings={"default": 0.1, "step": 0.01},
    tooltip="If enable_yaw_loss is on: how far the model's view of the panorama and of it turned round are "
    "reconciled. Twice the work.",
)  # fmt: skip
_CUBE = Control(
    options=SampleOptions, option="cube_consistency", name="cube_loss_weight", settings={"default": 0.1, "step": 0.01},
    tooltip="If enable_cube_loss is on: how far rows near the poles are kept as smooth as their circles are small.",
)  # fmt: skip
_DENOISE = Control(
    options=SampleOptions, option="denoise", settings={"step": 0.01},
    tooltip="How much of latent_image is made anew: 0 none of it, 1 all. At 1 it gives its size and nothing else.",
)  # fmt: skip


_OF_THE_MODEL = (
    "width", "height", "steps", "guidance", "circular_padding", "latent_rotation", "position_interpolation",
)  # fmt: skip
PREVIEW = 512
"""Width of previews, about, in pixels."""


class DiT360Sampler(Node):
    DISPLAY_NAME = "DiT360 Sampler"
    DESCRIPTION = (
        "Makes the latents of a panorama that continues over its left and right edge. Decode them with DiT360 Decode, "
        "which wraps too; ComfyUI's VAE Decode takes them, and leaves a seam. After a run it shows which size, steps, "
        "guidance and padding the model chose where an input leaves them to it."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The panorama before decoding, as ComfyUI's own FLUX latents.",)
    FREE: ClassVar[tuple[str, ...]] = ("scheduler_type", "attention_backend")
    WORDS: ClassVar[Mapping[str, str]] = {
        "guidance": "cfg_scale", "yaw_consistency": "yaw_loss_weight", "cube_consistency": "cube_loss_weight",
    }  # fmt: skip

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "conditioning": ("CONDITIONING", {
                    "tooltip": "The prompt: of DiT360 Text Encode or any FLUX text encoder. Of several that were "
                    "combined, the mean is followed, each step asking about each.",
                }),
                **specs(_REQUIRED),
            },
            "optional": {
                "latent_image": ("LATENT", {
                    "tooltip": "A picture to begin with (denoise below 1), or only its size and number (denoise 1).",
                }),
                **specs([_DENOISE]),
                "enable_yaw_loss": ("BOOLEAN", {
                    "default": False,
                    "tooltip": "Try it where the way round does not look like one place: reconciles views of the "
                    "model, by yaw_loss_weight. Twice the work.",
                }),
                **specs([_YAW]),
                "enable_cube_loss": ("BOOLEAN", {
                    "default": False,
                    "tooltip": "Try it where rays run to the top or the bottom: smooths rows near the poles, by "
                    "cube_loss_weight. Costs no time.",
                }),
                **specs([_CUBE]),
                **specs(_SECOND, advanced=_ADVANCED),
                "negative": ("CONDITIONING", {
                    "tooltip": "What it must not show, instead of negative_prompt; needs true_guidance above 1.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        options = sample_options(given)
        try:
            check_size(options.get("width"), options.get("height"))
        except InputError as error:
            raise InputError(f"{error.sentence.rstrip('.')}, or leave height at 0.") from None
        if options.get("denoise", 1.0) < 1.0 and "latent_image" not in given:
            raise InputError(
                f"denoise is {options['denoise']:g}, which keeps a part of latent_image, and nothing is connected "
                "there; connect a DiT360 Encode to it, or set denoise to 1."
            )
        asked_for = build(SampleOptions, {"prompt": "any", **options})
        check_honoured(asked_for, default_registry())
        if asked_for.attention_backend not in ("pipeline", "auto"):
            default_registry().find("attention", asked_for.attention_backend)

    def run(
        self, dit360_pipe: Any, conditioning: Any, latent_image: Any = None, negative: Any = None, **given: Any
    ) -> dict[str, Any]:
        pipe = pipe_of(dit360_pipe)
        options = _told_by(pipe, sample_options(given))
        with pipe.model.source.pipeline() as pipeline:
            engine = pipeline.engine
            words, guidance = conditioning_from(
                conditioning, device=engine.device, dtype=engine.dtype, negative=negative
            )
            if not engine.takes_guidance and given.get("cfg_scale", -1.0) < 0:
                options.pop("guidance", None)
            elif guidance is not None and engine.takes_guidance:
                if "guidance" in options:
                    log.info("cfg_scale is not used: the conditioning brings a guidance of %g.", guidance)
                options["guidance"] = guidance
            if options.get("true_guidance", 1.0) > 1:
                words = _with_negative(words, pipe, engine.device, engine.dtype)
            elif words.negative_prompt:
                log.warning("The negative prompt is not used, because true_guidance is 1; 4 is usual.")
            begun = _begin(pipeline, latent_image, options)
            pipeline.set_loras(pipe.model.loras)
            made = [
                _one(pipe, pipeline, words, {**options, "seed": (options["seed"] + i) % 2**64}, image)
                for i, image in enumerate(begun)
            ]
            told = summary_of([latents.settings["used"] for latents in made])
            return {"ui": {"text": [told]}, "result": (to_comfy(made, pipeline),)}


def sample_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The core's options for the inputs of a sampler; what is left to the model is left out. Raises InputError."""
    found = asked((*_REQUIRED, *_SECOND, _DENOISE), given)
    for switch, control in (("enable_yaw_loss", _YAW), ("enable_cube_loss", _CUBE)):
        if given.get(switch):
            found |= asked([control], {control.name: given.get(control.name, control.spec()[1]["default"])})
    return found


def _told_by(pipe: Pipe, options: dict[str, Any]) -> dict[str, Any]:
    """The options with what the pipe says instead of the loader, and the defaults of the model that it describes."""
    own: dict[str, Any] = {}
    if pipe.described is not pipe.model.source:
        model: Model = pipe.described.prepared.plan.model
        own = {name: getattr(model, name) for name in _OF_THE_MODEL}
        if "width" in options or "height" in options:
            del own["width"], own["height"]
    found = {**own, **options}
    if found.get("attention_backend", "pipeline") == "pipeline":
        found["attention_backend"] = pipe.attention_backend
    if found.get("attention_slice_size", -1) < 0:
        found["attention_slice_size"] = pipe.attention_slice_size
    return found


def _with_negative(words: Conditioning, pipe: Pipe, device: Any, dtype: Any) -> Conditioning:
    """The conditioning with an empty negative prompt, if it has none at all."""
    if words.negative is not None:
        return words
    with pipe.text_encoder.at_hand.pipeline() as pipeline:
        read = pipeline.encode(UNKNOWN, negative_prompt="", max_sequence_length=words.max_sequence_length)
    return attrs.evolve(words, negative_prompt="", negative=moved(read.negative, device, dtype))


def _begin(pipeline: Pipeline, latent_image: Any, options: dict[str, Any]) -> list[Latents | None]:
    """What each picture begins with; ``options`` get the size of it."""
    if latent_image is None:
        return [None]
    width, height, count = size_of(latent_image)
    wanted = (options.get("width", width), options.get("height", height))
    if wanted != (width, height):
        raise InputError(
            f"latent_image has {width}×{height} pixels, and {wanted[0]}×{wanted[1]} are asked for; set width and "
            "height to 0, or to its size."
        )
    options |= {"width": width, "height": height}
    if options.get("denoise", 1.0) == 1.0:
        return [None] * count
    if not bool(latent_image["samples"].any()):
        log.warning("latent_image is empty, and denoise keeps a part of it; denoise is usually 1 then.")
    return list(from_comfy(latent_image, pipeline))


def _one(
    pipe: Pipe, pipeline: Pipeline, words: Conditioning, options: dict[str, Any], image: Latents | None
) -> Latents:
    asked_for = build(SampleOptions, {"prompt": words.prompt, **options})
    described = attrs.asdict(asked_for, filter=lambda field, value: field.name not in ("prompt", "negative_prompt"))
    pipe.model.source.expect(PhaseKind.STEP, **described)
    steps = asked_for.steps or pipeline.plan.model.steps
    progress = host.Progress(steps)
    tap: Callable[[int, int, Latents], None] | None = None
    if host.shows_previews():
        # Now, and not in the first step, when the transformer has the device to itself.
        pipeline.preview(_grey(pipeline, image), scale=1)
        scale = max(1, min(8, 8 * PREVIEW // (asked_for.width or pipeline.plan.model.width)))

        def tap(done: int, of: int, expected: Latents) -> None:
            progress.done(done, of, pipeline.preview(expected, scale=scale).image)

    latents = pipeline.sample(words, image=image, tap=tap, progress=None if tap else progress.done, **options)
    progress.done(steps, steps)
    return latents


def _grey(pipeline: Pipeline, image: Latents | None) -> Any:
    import torch

    return image if image is not None else torch.zeros(1, pipeline.engine.latent_channels, 2, 4)


NODES: dict[str, type[Any]] = {"DiT360Sampler": DiT360Sampler}
