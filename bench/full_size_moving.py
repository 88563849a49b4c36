"""Parts of ``bench/full_size.py`` in which weights move: offloading, and the presets of README's table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from dit360_core.errors import InputError
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.residency.placement import place
from dit360_core.pipeline.pipeline import Pipeline
from full_size_parts import (
    GUIDANCE,
    PADDING,
    Asked,
    conditioning,
    flux,
    outside_torch,
    peaks,
    text_encoders,
    wrapped,
)
from full_size_rows import free, row
from presets import decided, subject

STEPS = 3
"""Of a sampling in which parts move. The first moves them there and is not among the steps that count."""


def offloaded(asked: Asked, work: Any, offload: str) -> None:
    """Parts rest in system memory; sampled as a whole, since that is when they move."""

    def measure() -> dict[str, Any]:
        pipeline = placed(flux(asked), offload, asked, attention_backend="sdpa")
        return moved_picture(asked, pipeline, {})

    row(work, f"{asked['precision']}, offload={offload}", measure)


def preset(asked: Asked, work: Any, vram: int, ram: int | None = None) -> None:
    """A card of so many GiB, with the options that the planner gives for it, as README's table has them.

    ram: GiB of system memory that the planner is told of. Torch may allocate what CUDA leaves of the card, and not a
    byte more. Weights are made, and quantized, before that holds, since a load would bring them layer by layer.
    """
    given, found = decided({"vram": vram} | ({"ram": ram} if ram else {}), subject())
    options: dict[str, Any] = found.best.differs(given)
    said = found.best.sentence(given)

    def measure() -> dict[str, Any]:
        offload = options.pop("offload", "none")
        decoding = {key: options.pop(key) for key in DECODING if key in options}
        evict = options.pop("evict", "none")
        pipe = flux(asked, precision=options.pop("precision", ""))
        encoders = text_encoders(asked, pipe.transformer.dtype)
        pipe.text_encoder_2, pipe.text_encoder = (encoders[name][0] for name in ("T5", "CLIP"))
        around = outside_torch(asked["device"])

        def capped() -> None:
            free()
            if asked["device"] == "cuda":
                total, cap = torch.cuda.get_device_properties(0).total_memory, vram * 2**30 - around
                torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
                # What decides by free memory, such as the decode, must see the small card too.
                torch.cuda.mem_get_info = lambda device=None: (max(0, cap - torch.cuda.memory_reserved()), cap)

        pipeline = placed(pipe, offload, asked, before=capped, **options)
        text = peaks(lambda: read(pipe, encoders, asked), asked["device"])
        if evict != "none":
            pipe.text_encoder = pipe.text_encoder_2 = None
            encoders.clear()
        predicted = {f"predicted_{phase.name}": phase.total for phase in found.best.prediction.phases}
        row_ = {**moved_picture(asked, pipeline, decoding), "text_peak": text["peak"], "text_s": text["first_s"]}
        row_["peak"] = max(row_["peak"], text["peak"])
        row_["reserved"] = max(row_["reserved"] or 0, text["reserved"] or 0) or None
        card = (row_["reserved"] or 0) + around if asked["device"] == "cuda" else None
        return {**row_, "card": card, "vram_bytes": vram * 2**30, "ram": ram, **predicted}

    row(work, said, measure)


DECODING = ("tiling_mode", "tiling_backend", "tiling_level", "tile_size_override", "max_tile_pixels_override")


def read(pipe: Any, encoders: dict[str, Any], asked: Asked) -> None:
    """A prompt through both text encoders, each where it rests or is brought to."""
    for name, module in (("T5", pipe.text_encoder_2), ("CLIP", pipe.text_encoder)):
        ids = torch.randint(1, 1000, (1, encoders[name][1]), device=asked["device"])
        with torch.no_grad():
            module(input_ids=ids)


def placed(
    pipe: Any, offload: str, asked: Asked, before: Callable[[], None] = lambda: None, **options: Any
) -> Pipeline:
    """A pipeline whose parts rest where ``offload`` says. before: called when all of it is in system memory."""
    if offload == "sequential" and asked["device"] == "cpu":
        raise InputError("accelerate moves single layers only between system memory and an accelerator")
    # Wrapped while it is on the device, where it computes and is quantized.
    device = torch.device(asked["device"])
    pipeline = wrapped(pipe.to(device), asked, **options)
    pipe.to("cpu")
    before()
    if offload == "model" and device.type == "cpu":
        pipe.enable_model_cpu_offload(device=device)
    else:
        place(pipe, FLUX, offload, device)
    return pipeline


def moved_picture(asked: Asked, pipeline: Pipeline, decoding: dict[str, Any]) -> dict[str, Any]:
    """A short sampling and a decode. seconds: of a step after the first; first_s: of the first, with moves."""
    engine, marks = pipeline.engine, []
    given = conditioning(asked, engine.denoiser.config, engine.dtype)

    def mark(done: int = 0, steps: int = 0) -> None:
        if asked["device"] == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    latents: Any = None

    def sample() -> None:
        nonlocal latents
        mark()
        latents = pipeline.sample(
            given,
            width=asked["width"],
            height=asked["width"] // 2,
            steps=STEPS,
            guidance=GUIDANCE,
            seed=1,
            circular_padding=PADDING,
            progress=mark,
        )

    sampling = peaks(sample, asked["device"])
    took = sorted(b - a for a, b in itertools.pairwise(marks[1:]))
    decoding_took = peaks(lambda: pipeline.decode(latents, **decoding), asked["device"])
    return {
        "seconds": took[len(took) // 2],
        "first_s": marks[1] - marks[0],
        "sampling_peak": sampling["peak"],
        "decode_s": decoding_took["first_s"],
        "decode_peak": decoding_took["peak"],
        "peak": max(sampling["peak"], decoding_took["peak"]),
        "reserved": max(sampling["reserved"] or 0, decoding_took["reserved"] or 0) or None,
        "given_up": "; ".join(pipeline.given_up) or None,
    }
