"""From what a node was given to latents: what the sampler and the node that makes a part anew have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from dit360_core.models.architecture import Facts, Guidance
from dit360_core.options import SampleOptions, build
from dit360_core.pipeline.editing.canvas import on_green, share_of
from dit360_core.pipeline.holding import Hold
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Conditioning, Latents, Shown
from dit360_core.planning.guidance import guidance_of
from dit360_core.plugins.offers import Model
from dit360_core.system.phases import PhaseKind

from dit360_comfy import host
from dit360_comfy.conditioning import UNKNOWN, conditioning_from, embedding_at, moved, prompts_of, to_fill
from dit360_comfy.latents import from_comfy, to_comfy
from dit360_comfy.nodes.decode import tiling_options
from dit360_comfy.pictures import at_size, masks, of_batch
from dit360_comfy.pipe import Pipe
from dit360_comfy.resolved import summary_of

log = logging.getLogger("dit360")

_OF_THE_MODEL = (
    "width", "height", "steps", "guidance", "circular_padding", "latent_rotation", "position_interpolation",
)  # fmt: skip
PREVIEW = 512
"""Width of previews, about, in pixels."""


@attrs.frozen(kw_only=True, eq=False)
class Start:
    """What one picture begins with.

    image: latents to begin with, by ``denoise``; None: noise, or what is held.
    hold: what is kept of a picture; None: nothing.
    shown: what a model that fills is shown.
    reference: what a model that refers is shown.
    """

    image: Latents | None = None
    hold: Hold | None = None
    shown: Shown | None = None
    reference: Latents | None = None


def paint(
    pipe: Pipe,
    conditioning: Any,
    negative: Any,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    begin: Callable[[Pipeline, dict[str, Any]], Sequence[Start]],
) -> tuple[dict[str, Any], str]:
    """A LATENT, and what the model chose where a node left it to it.

    given: the inputs of the node.
    options: of the core, for them.
    begin: what each picture begins with; it may set options.

    Raises InputError for what the model cannot do, before its weights are read as far as that can be told.
    """
    options = _told_by(pipe, options)
    with pipe.model.source.pipeline() as pipeline:
        engine = pipeline.engine
        words, guidance = conditioning_from(conditioning, device=engine.device, dtype=engine.dtype, negative=negative)
        facts, model = engine.facts, pipeline.plan.model
        if facts.guidance is Guidance.NONE and given.get("cfg_scale", -1.0) < 0:
            options.pop("guidance", None)
        if guidance is not None and facts.takes_guidance:
            if "guidance" in options:
                log.info("cfg_scale is not used: the conditioning brings a guidance of %g.", guidance)
            options["guidance"] = guidance
        elif guidance is not None:
            log.warning(
                "The conditioning brings a guidance of %g, which is not used: this model has %s.",
                guidance,
                "none" if facts.guidance is Guidance.NONE else "cfg_scale instead",
            )
        if facts.guidance is Guidance.TRUE and options.get("true_guidance", 1.0) > 1 and given.get("cfg_scale", -1) < 0:
            options.pop("guidance", None)  # the model's own, which is the same thing
        asked = {name: options[name] for name in ("guidance", "true_guidance") if name in options}
        if guidance_of(SampleOptions(prompt="any", **asked), model, facts).away:
            words = _with_negative(words, pipe, engine.device, engine.dtype, facts)
        elif words.negative_prompt and facts.guidance is Guidance.TRUE:
            log.warning("The negative prompt is not used, because cfg_scale is at most %g.", facts.off)
        elif words.negative_prompt:
            log.warning("The negative prompt is not used, because true_guidance is 1; 4 is usual.")
        begun = begin(pipeline, options)
        if any(start.reference is not None for start in begun):
            words = _referring(words, prompts_of(conditioning), pipe, engine.device, engine.dtype)
        pipeline.set_loras(pipe.model.loras)
        made = [
            _one(pipe, pipeline, words, {**options, "seed": (options["seed"] + i) % 2**64}, start)
            for i, start in enumerate(begun)
        ]
        return to_comfy(made, pipeline), summary_of([latents.settings["used"] for latents in made])


def tell(keep: Any) -> None:
    """Warns of masks that are possible and hardly meant.

    keep: in 0 … 1, how much of each pixel or latent is kept.
    """
    if not bool(keep.any()):
        log.warning("The mask keeps nothing, so all of the picture is made anew; 1, white, is what is made anew.")
    elif bool((keep == 1).all()):
        log.warning("The mask keeps all of the picture, so nothing is made anew; 1, white, is what is made anew.")
    elif not bool((keep == 1).any()):
        log.warning("Nothing of the picture is kept as it is: what is kept is narrower than growth and softness.")


def told_of(keep: Any) -> dict[str, Any]:
    """What a picture's metadata say of a mask; keep: as for :func:`tell`."""
    return {"mask": True, "kept": round(share_of(keep == 1), 4), "made": round(share_of(keep == 0), 4)}


def hold_of(latents: Latents, keep: Any) -> Hold:
    """What is kept of latents in model space; keep: ``(1, 1, h, w)`` in 0 … 1."""
    tell(keep)
    return Hold(latents=latents, keep=keep, told=told_of(keep))


def facts_of(pipe: Pipe) -> Facts:
    """What the model's configurations say; told without its weights."""
    prepared = pipe.model.source.prepared
    return prepared.architecture.facts(prepared.folder)


def shown_by(pipe: Pipe, pipeline: Pipeline, stored: Any, mask: Any) -> Shown:
    """What a model that fills is shown of latents: decoded, without what the mask covers, and encoded again.

    pipe: whose autoencoder.
    pipeline: of the model.
    stored: the samples of a LATENT with one picture.
    mask: ``(H, W)`` in 0 … 1; from 0.5 on a pixel is made anew.
    """
    return shown_of(pipe, pipeline, decoded(pipe, stored, mask), mask)


def decoded(pipe: Pipe, samples: Any, like: Any) -> Any:
    """``(3, H, W)`` in 0 … 1 of the samples of a LATENT with one picture, by the autoencoder of the pipe.

    like: ``(H, W)``, of the size of it.
    """
    options = tiling_options(pipe, {})
    with _autoencoding(pipe, PhaseKind.DECODE, like, options) as autoencoder:
        (latents,) = from_comfy({"samples": samples}, autoencoder)
        return autoencoder.decode_pixels(latents, **options).tensor[0]


def shown_of(pipe: Pipe, pipeline: Pipeline, pixels: Any, mask: Any) -> Shown:
    """As :func:`shown_by`, of pixels ``(3, H, W)`` in 0 … 1."""
    options = tiling_options(pipe, {})
    with _autoencoding(pipe, PhaseKind.ENCODE, mask, options) as autoencoder:
        shown: Shown = autoencoder.encode_hole(pixels[None], mask[None, None], **options)
        stored = autoencoder.engine.to_stored(shown.masked.tensor.float())
    return attrs.evolve(shown, masked=Latents(tensor=pipeline.engine.from_stored(stored)))


def encoded(pipe: Pipe, pipeline: Pipeline, pixels: Any) -> Latents:
    """``(3, H, W)`` in 0 … 1 as the model's latents, by the autoencoder of the pipe."""
    options = tiling_options(pipe, {})
    with _autoencoding(pipe, PhaseKind.ENCODE, pixels, options) as autoencoder:
        stored = autoencoder.engine.to_stored(autoencoder.encode_image(pixels[None], **options).tensor.float())
    return Latents(tensor=pipeline.engine.from_stored(stored))


def referred(pipe: Pipe, pipeline: Pipeline, pixels: Any, unknown: Any) -> Latents:
    """What a model that refers is shown of pixels ``(3, H, W)`` in 0 … 1.

    unknown: ``(H, W)``, 1 where it is to go on from nothing.
    """
    return encoded(pipe, pipeline, on_green(pixels[None], unknown)[0])


def shown_in(conditioning: Any, pipeline: Pipeline, at: int) -> Shown | None:
    """What ComfyUI's Inpaint Model Conditioning says that a model that fills is to be shown; None: nothing."""
    found = to_fill(conditioning)
    if found is None:
        return None
    (masked,) = from_comfy({"samples": host.plain(of_batch(found[0], at))[None]}, pipeline)
    called = "The mask of the conditioning"
    mask = at_size(of_batch(masks(found[1], called), at), masked.size, called)
    return Shown(masked=masked, mask=(mask >= 0.5).float()[None, None])


def _autoencoding(pipe: Pipe, kind: PhaseKind, like: Any, options: Mapping[str, Any]) -> Any:
    """The autoencoder's pipeline, whose memory ComfyUI is told of.

    kind: what is to be done.
    like: ``(…, H, W)``, of the size of what is to be done.
    """
    source = pipe.vae.at_hand
    size = {"width": int(like.shape[-1]), "height": int(like.shape[-2])}
    source.expect(kind, given=kind == PhaseKind.ENCODE, **size, **options)
    return source.pipeline()


def _told_by(pipe: Pipe, options: Mapping[str, Any]) -> dict[str, Any]:
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


def _with_negative(words: Conditioning, pipe: Pipe, device: Any, dtype: Any, facts: Facts) -> Conditioning:
    """The conditioning with the model's own negative prompt, if it has none at all."""
    if words.negative is not None:
        return words
    with pipe.text_encoder.at_hand.pipeline() as pipeline:
        own = facts.negative_prompt
        read = pipeline.encode(UNKNOWN, negative_prompt=own, max_sequence_length=words.max_sequence_length)
    return attrs.evolve(words, negative_prompt=own, negative=moved(read.negative, device, dtype))


def _referring(words: Conditioning, prompts: Sequence[str | None], pipe: Pipe, device: Any, dtype: Any) -> Conditioning:
    """The prompts read again, with what the model is told of the picture that it is shown."""
    known = [prompt for prompt in prompts if prompt]
    if len(known) < len(prompts):
        log.warning(
            "The model is shown the picture, but is not told what to make of it, because another node than DiT360 Text "
            "Encode read the prompt; use that one, or set reference to never."
        )
        return words
    lengths = [int(embedding.tokens.shape[1]) for embedding in (words.positive, *words.others)]
    with pipe.text_encoder.at_hand.pipeline() as pipeline:
        read = [
            pipeline.encode(prompt, max_sequence_length=length, referring=True)
            for prompt, length in zip(known, lengths, strict=True)
        ]
    positive, *others = (embedding_at(one.positive, device, dtype) for one in read)
    return attrs.evolve(words, positive=positive, others=tuple(others), prefix=read[0].prefix)


def _one(pipe: Pipe, pipeline: Pipeline, words: Conditioning, options: dict[str, Any], start: Start) -> Latents:
    asked_for = build(SampleOptions, {"prompt": words.prompt, **options})
    described = attrs.asdict(asked_for, filter=lambda field, value: field.name not in ("prompt", "negative_prompt"))
    pipe.model.source.expect(PhaseKind.STEP, referring=start.reference is not None, **described)
    steps = asked_for.steps or pipeline.plan.model.steps
    progress = host.Progress(steps)
    tap: Callable[[int, int, Latents], None] | None = None
    if host.shows_previews():
        # Now, and not in the first step, when the transformer has the device to itself.
        pipeline.preview(_grey(pipeline, start.image), scale=1)

        def tap(done: int, of: int, expected: Latents) -> None:
            progress.done(done, of, pipeline.preview(expected, width=PREVIEW).image)

    latents = pipeline.sample(
        words, image=start.image, hold=start.hold, shown=start.shown, reference=start.reference, tap=tap,
        progress=None if tap else progress.done, **options,
    )  # fmt: skip
    progress.done(steps, steps)
    return latents


def _grey(pipeline: Pipeline, image: Latents | None) -> Any:
    import torch

    return image if image is not None else torch.zeros(1, pipeline.engine.latent_channels, 2, 4)
