"""What is wrong with a request, told before any weights are read: names, options without effect, sizes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import attrs

from dit360_core.errors import BackendUnavailable, InputError, named, remedy, setting
from dit360_core.options import SIZE_STEP, DecodeOptions, LoadOptions, SampleOptions, check_size
from dit360_core.planning.loras import follows_default, lora_uses
from dit360_core.planning.tiling import choose_tiling, tiling_settings
from dit360_core.plugins.choosing import resolve_model
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine


def check_names(
    loading: LoadOptions,
    sampling: SampleOptions | None,
    registry: Registry,
    is_folder: Callable[[str], bool],
    *,
    decoding: DecodeOptions | None = None,
) -> Model:
    """The model that is meant; all other names are looked at with it.

    Raises UnknownName for a name that nothing offers, InputError for what the scheduler asked for would ignore. Looks
    at names alone, so that a slip of the pen is told before anything is imported or loaded.
    """
    model = resolve_model(loading.model, registry, is_folder)
    asked = {"attention": loading.attention_backend, "quantization": loading.quantization_mode}
    if decoding is not None:
        asked["tiling"] = decoding.tiling_backend
    for kind, name in asked.items():
        if name != "auto":
            registry.find(kind, name)
    if sampling is not None:
        check_honoured(sampling, registry)
    lora_uses(loading, model)  # whose strengths are looked at
    return model


def check_loading(options: LoadOptions, machine: Machine, model: Model) -> None:
    """Raises InputError for load options that contradict each other or the machine."""
    if options.offload not in ("none", "disk") and machine.device == "cpu":
        raise InputError(
            f"{setting('offload', options.offload)} moves parts between an accelerator and system memory, and this "
            f"runs on the CPU; use {setting('offload', 'none')}, {setting('offload', 'disk')} or "
            f"{setting('evict', 'all')}."
        )
    if options.offload in ("text", "group", "disk") and machine.device == "mps":
        raise InputError(
            f"{setting('offload', options.offload)} is for CUDA devices and CPUs; use {setting('offload', 'none')} "
            f"or {setting('evict', 'all')}."
        )
    if why := contradicts(options):
        raise InputError(f"{why}; {remedy('leave_one_of_them_out')}.")
    if options.compile_blocks:
        _check_compiler(machine)
    loras = lora_uses(options, model)
    if not options.model_lora and not model.lora:
        raise InputError(
            f"{setting('model_lora', 'False')} has no effect, because {options.model} has no LoRA of its own; "
            f"{remedy('leave_out')}."
        )
    if options.lora_strength != 1.0 and not follows_default(options, model):
        why = (
            f"every LoRA is given a strength of its own; {remedy('leave_out')}"
            if loras
            else f"no LoRA is loaded; give one with {named('lora')}, or {remedy('leave_out')}"
        )
        raise InputError(f"{setting('lora_strength', f'{options.lora_strength:g}')} has no effect, because {why}.")
    if options.lora_mode != "fuse" and not loras:
        raise InputError(
            f"{setting('lora_mode', options.lora_mode)} has no effect, because no LoRA is loaded; give one with "
            f"{named('lora')}, or {remedy('leave_out')}."
        )


def _check_compiler(machine: Machine) -> None:
    """Raises InputError where torch.compile would fail in the first step for want of a compiler."""
    if machine.device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++", "cl"))):
        raise InputError(
            f"{named('compile_blocks')} needs a C++ compiler, and none is on the path; install g++ or clang++, or "
            f"{remedy('leave_out')}."
        )
    if machine.device == "cuda" and find_spec("triton") is None:
        raise InputError(
            f"{named('compile_blocks')} needs Triton on CUDA, and it is not installed; pip install triton, or "
            f"{remedy('leave_out')}."
        )


def contradicts(options: LoadOptions) -> str | None:
    """Why offload, eviction and compilation cannot be had together, or None."""
    if options.evict == "all" and options.offload != "none":
        return (
            f"{setting('evict', 'all')} has one part in memory at a time, and {setting('offload', options.offload)} "
            "keeps parts in another memory"
        )
    if options.evict == "text" and options.offload in ("text", "sequential", "disk"):
        return (
            f"{setting('evict', 'text')} drops the text encoder that {setting('offload', options.offload)} keeps "
            "elsewhere"
        )
    if options.compile_blocks and options.offload in ("group", "sequential", "disk"):
        return f"compiled blocks cannot be taken apart, as {setting('offload', options.offload)} does"
    return None


def refuse_without_effect(options: LoadOptions, why: str) -> None:
    """Raises InputError if it was asked what to quantize where nothing is.

    why: nothing is.
    """
    for name in ("quantization_parts", "quantization_skip"):
        value = getattr(options, name)
        if value != getattr(attrs.fields(LoadOptions), name).default:
            raise InputError(
                f"{setting(name, value)} has no effect, because {why}; {remedy('leave_out')}, or choose another mode."
            )


def check_request(
    sampling: SampleOptions,
    decoding: DecodeOptions,
    *,
    loading: LoadOptions,
    model: Model,
    registry: Registry,
    machine: Machine,
    precision: str,
) -> None:
    """Raises whatever is wrong with one picture's options that can be known before a model's files are there."""
    width, height = picture_size(sampling, model)
    if sampling.attention_backend not in ("pipeline", "auto"):
        registry.find("attention", sampling.attention_backend)
    check_honoured(sampling, registry)
    if sampling.circular_mode == "bias" and padding_of(sampling, model) == 0:
        raise InputError(
            f"{setting('circular_mode', 'bias')} has no effect, because {named('circular_padding')} is 0; set it to "
            "1 or more."
        )
    _check_bias(sampling, loading, registry)
    settings = tiling_settings(loading, decoding)
    choose_tiling(
        decoding.tiling_backend, settings, width, height, registry=registry, machine=machine, precision=precision
    )


def check_filled(loading: LoadOptions, *, fills: bool, given: bool) -> None:
    """Raises InputError if a model that fills a part of a picture is given none.

    fills: whether the model does.
    given: whether there is a picture with a part to fill.
    """
    if fills and not given:
        name = "This model" if loading.model == "given" else loading.model
        raise InputError(
            f"{name} fills a part of a picture, and none is given; give {named('image')} and {named('mask')}, or a "
            f"{named('photo')}."
        )


def begun_with(
    sampling: SampleOptions, size: tuple[int, int] | None, *, keeps: bool = False, resizes: bool = False
) -> SampleOptions:
    """The options of a picture that begins with another, or with none; the size is that one's, if none was asked for.

    size: (width, height) of the other in pixels; None: there is none.
    keeps: whether a part of that is kept, whatever becomes of the rest.
    resizes: whether it can be resized, as pixels can and latents cannot.

    Raises InputError if there is nothing to begin with and denoise is below 1, if all of what there is would be made
    anew, or if it has another size and cannot be resized.
    """
    if size is None:
        if sampling.denoise < 1.0:
            # What a photo leaves is filled in, blurred, and no picture to begin with.
            what = "a photo alone is none" if keeps else "none is given"
            raise InputError(
                f"{setting('denoise', f'{sampling.denoise:g}')} keeps a part of a picture, and {what}; give one with "
                f"{named('image')}, or leave {named('denoise')} out."
            )
        return sampling
    if sampling.denoise == 1.0 and not keeps:
        raise InputError(
            f"{setting('denoise', '1')} keeps nothing of the image; set {named('denoise')} below 1 (0.6 is usual), "
            f"say with {named('mask')} or {named('region')} what is made anew, or {remedy('leave_out')}."
        )
    width, height = size
    if width != 2 * height:
        raise InputError(f"The image has {width}×{height} pixels, and a panorama is twice as wide as high; resize it.")
    own = max(SIZE_STEP, round(height / SIZE_STEP) * SIZE_STEP)
    if (own != height) and not resizes:
        raise InputError(f"The image has {width}×{height} pixels, and its height is no multiple of {SIZE_STEP}.")
    high = sampling.height or (own if sampling.width is None else sampling.width // 2)
    wide = sampling.width or 2 * high
    if (wide, high) != size and not resizes:
        raise InputError(
            f"The image has {width}×{height} pixels, and {wide}×{high} were asked for; leave the size out."
        )
    return attrs.evolve(sampling, width=wide, height=high)


def padding_of(sampling: SampleOptions, model: Model) -> int:
    """Token columns wrapped around on either side."""
    return model.circular_padding if sampling.circular_padding is None else sampling.circular_padding


def picture_size(sampling: SampleOptions, model: Model) -> tuple[int, int]:
    """Width and height in pixels; what is not given follows from the other, or is the model's own."""
    width = sampling.width or (2 * sampling.height if sampling.height else model.width)
    height = sampling.height or width // 2
    check_size(width, height)
    return width, height


def _check_bias(sampling: SampleOptions, loading: LoadOptions, registry: Registry) -> None:
    """Raises BackendUnavailable if no kernel of the name asked for takes a bias, and none may stand in for it."""
    own = sampling.attention_backend != "pipeline"
    name = sampling.attention_backend if own else loading.attention_backend
    if sampling.circular_mode != "bias" or not loading.strict or name == "auto":
        return
    found = registry.find("attention", name)
    if not any(entry.offer.takes_key_bias for entry in found):
        raise BackendUnavailable(
            f"The attention backend {name!r} takes no bias on the keys; use {setting('circular_mode', 'pad')}, another "
            f"backend, or leave {named('strict')} out."
        )


def check_honoured(sampling: SampleOptions, registry: Registry) -> None:
    """Raises InputError if an option was changed from its default that the scheduler asked for would ignore."""
    any_may_be_used = sampling.scheduler_type == "auto"
    if any_may_be_used:
        found = tuple(entry for entry in registry.entries("scheduler") if not entry.refused)
    else:
        found = registry.find("scheduler", sampling.scheduler_type)
    for name in ("timestep_schedule", "scheduler_eta"):
        value, default = getattr(sampling, name), getattr(attrs.fields(SampleOptions), name).default
        honoured = [name in entry.offer.honours for entry in found]
        if value != default and not (all(honoured) if any_may_be_used else any(honoured)):
            if any_may_be_used:
                able = ", ".join(entry.name for entry in found if name in entry.offer.honours) or "none does"
                raise InputError(
                    f"{setting(name, value)} needs a scheduler that obeys it ({able}), and "
                    f"{setting('scheduler_type', 'auto')} may take another; name the scheduler."
                )
            obeyed = ", ".join(sorted(found[0].offer.honours)) or "neither"
            raise InputError(
                f"{setting(name, value)} has no effect with the scheduler {sampling.scheduler_type!r} (it takes: "
                f"{obeyed}); {remedy('leave_out')} or choose another scheduler."
            )
