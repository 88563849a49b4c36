"""What ``bench/full_size.py`` measures: each function is a part, runs in a process of its own, and tells its rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from dit360_core.models.flux.latents import as_stored
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.planning.kernels import Kernels
from dit360_core.planning.probe import closeness, refusals, speed, trial_call
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import Entry, by_priority
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.registry import default_registry
from dit360_core.plugins.slicing import sliced
from dit360_core.sphere.grid import Grid
from dit360_core.system.machine import Machine
from dit360_core.system.memory import is_out_of_memory
from full_size_parts import (
    PADDING,
    TINY_TRANSFORMER,
    Asked,
    add_lora,
    dtype_of,
    flux,
    official_step,
    our_step,
    our_velocity,
    paired,
    peaks,
    resident,
    timed,
    transformer,
    wrapped,
)
from full_size_rows import row

# -------------------------------------------------------------------------------------------------------- attention


def need_of(asked: Asked, dtype: str, *, key_bias: bool = False, heads: int, head_dim: int = 128) -> AttentionNeed:
    """What a panorama of the size asks of attention."""
    length = Grid.of_picture(asked["width"], asked["width"] // 2, PADDING).tokens + (16 if asked["small"] else 512)
    return AttentionNeed(
        device=asked["device"], dtype=dtype, heads=heads, head_dim=head_dim, length=length, key_bias=key_bias
    )


def backends() -> list[Entry]:
    """All kernels of this environment, by priority."""
    return sorted(default_registry().entries("attention"), key=by_priority)


def kernels(asked: Asked, work: Any, dtypes: Iterable[str] = ("bf16", "fp16", "fp32")) -> None:
    """Every kernel by itself at FLUX.1-dev's shapes: how far from float32 or wider, how long, how much memory."""
    machine = Machine.detect(asked["device"]).confirmed(asked["device"])[0]
    for dtype, key_bias in itertools.product(dtypes, (False, True)):
        need = need_of(asked, dtype, key_bias=key_bias, heads=4 if asked["small"] else 24)
        for entry in backends():
            what = f"{entry.address}, {dtype}" + (", bias" if key_bias else "")
            row(work, what, lambda entry=entry, need=need: one_kernel(entry, need, machine))  # type: ignore[misc]


def one_kernel(entry: Entry, need: AttentionNeed, machine: Machine) -> dict[str, Any]:
    """Its error in trials and over the whole length, and its time beside PyTorch's own choice."""
    if reasons := judge(entry, machine, need):
        return {"skipped": "; ".join(map(str, reasons))}
    attend = entry.offer.load()
    if reasons := refusals(attend, machine, need):
        return {"skipped": "; ".join(map(str, reasons))}
    close = closeness(attend, need)
    if close.reasons:
        return {"failed": "; ".join(map(str, close.reasons)), "error": close.error, "allowed": close.allowed}
    call = trial_call(need, need.length, need.length)
    truth = call.truth()
    # What stores all scores is sliced in a picture, too, where memory asks for it.
    kernel = sliced(attend, 1024) if entry.offer.stores_scores else attend
    whole = float((call.to(kernel).to(truth.dtype) - truth).abs().max() / truth.abs().max())
    del truth
    measured = peaks(lambda: call.to(kernel), need.device)
    seconds, times = speed(kernel, need)
    own = {"seconds": seconds, "times_as_fast_as_sdpa": times, "whole_error": whole}
    return {"error": close.error, "allowed": close.allowed, **own, "peak": measured["peak"]}


def steps(asked: Asked, work: Any) -> None:
    """The resident pipeline, and every kernel in it, each against PyTorch's own choice: time, memory, result."""
    pipeline = wrapped(flux(asked), asked, attention_backend="sdpa")
    config = pipeline.engine.denoiser.config
    machine = Machine.detect(asked["device"]).confirmed(asked["device"])[0]
    need = need_of(asked, asked["precision"], heads=config.num_attention_heads, head_dim=config.attention_head_dim)
    reference, chosen = our_step(pipeline, asked), Kernels(default_registry(), machine, True)
    right = our_velocity(pipeline, asked)()

    def with_kernel(entry: Entry) -> dict[str, Any]:
        if reasons := judge(entry, machine, need):
            return {"skipped": "; ".join(map(str, reasons))}
        _, attend = chosen.choose(entry.address, need)
        # 22 GB of scores for those that store them in float32: in slices, as where memory asks for it.
        kernel = sliced(attend, 1024) if entry.offer.stores_scores else attend
        error, step = distance(our_velocity(pipeline, asked, kernel)(), right), our_step(pipeline, asked, kernel)
        return {**peaks(step, asked["device"]), **paired(step, reference, asked), "error": error}

    def alone() -> dict[str, Any]:
        weights = sum(p.nbytes for p in pipeline.engine.denoiser.parameters())
        return {**peaks(reference, asked["device"]), **paired(reference, None, asked), "weights_bytes": weights}

    row(work, f"resident, {asked['precision']}", alone)
    for entry in backends():
        row(work, f"{asked['precision']}, {entry.address}", lambda entry=entry: with_kernel(entry))  # type: ignore[misc]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, root mean square."""
    return float((one.double() - other.double()).norm() / other.double().norm())


# ----------------------------------------------------------------------------------------------------- the transformer


def compared(asked: Asked, step: Callable[[], Any], reference: Pipeline | None = None) -> dict[str, Any]:
    """Memory of a step, then it and one of the resident pipeline in turns. reference: that pipeline, if it is there."""
    found = peaks(step, asked["device"])
    reference = reference or resident(asked)
    return {**found, **paired(step, None if reference is None else our_step(reference, asked), asked)}


def official(asked: Asked, work: Any, precision: str) -> None:
    """The authors' way: diffusers, the LoRA beside the weights."""

    def measure() -> dict[str, Any]:
        module = transformer(asked, dtype_of(precision))
        add_lora(module)
        return compared(asked, official_step(module, asked))

    row(work, f"diffusers, {precision}, LoRA beside the weights", measure)


def fused(asked: Asked, work: Any) -> None:
    """The same LoRA, in the weights."""

    def measure() -> dict[str, Any]:
        pipe = flux(asked)
        add_lora(pipe.transformer)

        def fuse() -> None:
            pipe.transformer.fuse_lora()
            pipe.transformer.unload_lora()

        seconds = timed(fuse, asked["device"])
        pipeline = wrapped(pipe, asked, attention_backend="sdpa")
        return {**compared(asked, our_step(pipeline, asked)), "fusing_s": seconds}

    row(work, f"{asked['precision']}, LoRA fused", measure)


def compiled(asked: Asked, work: Any) -> None:
    """torch.compile of the blocks, each kind once."""

    def measure() -> dict[str, Any]:
        pipeline = wrapped(flux(asked), asked, attention_backend="sdpa", compile_blocks=True)
        return compared(asked, our_step(pipeline, asked))

    row(work, f"{asked['precision']}, compile_blocks=True", measure)


def quantized(asked: Asked, work: Any) -> None:
    """The transformer in every quantization: bytes, memory, time, and how far its velocity is off."""
    reference = resident(asked)
    for entry in sorted(default_registry().entries("quantization"), key=by_priority):
        if entry.offer.name not in ("none", "auto"):
            mode = entry.address
            row(work, f"{asked['precision']}, {mode}", lambda mode=mode: one_quantization(asked, mode, reference))  # type: ignore[misc]


def one_quantization(asked: Asked, mode: str, reference: Pipeline | None) -> dict[str, Any]:
    """One way, of the same random weights as the reference has."""
    pipe = flux(asked)
    began = time.perf_counter()
    pipeline = wrapped(pipe, asked, attention_backend="sdpa", quantization_mode=mode, quantization_parts="transformer")
    seconds = time.perf_counter() - began
    (done,) = pipeline.state.quantized
    error = {}
    if reference is not None:
        error["error"] = distance(our_velocity(pipeline, asked)(), our_velocity(reference, asked)())
    return {
        **compared(asked, our_step(pipeline, asked), reference),
        **error,
        "quantizing_s": seconds,
        "layers_bytes": done.bytes,
        "of_bytes": done.bytes_before,
        "layer_error_median": done.errors.median if done.errors else None,
        "layer_error_most": done.errors.most if done.errors else None,
        "kernel": ", ".join(f"{name} ×{count}" for name, count in done.kernels.items()),
    }


# ------------------------------------------------------------------------------------------------------ the autoencoder


def decode(asked: Asked, work: Any, widths: Iterable[int] = (2048, 4096, 8192)) -> None:
    """The autoencoder at three sizes: ours as auto decides, in the smallest tiles, and diffusers' in one piece."""
    pipe = flux(asked, config=TINY_TRANSFORMER)
    pipeline, device = wrapped(pipe, asked), asked["device"]
    for asked_width in widths:
        width = asked_width // 16 if asked["small"] else asked_width
        latents = torch.randn(1, 16, width // 16, width // 8, generator=torch.Generator().manual_seed(1))
        stored = as_stored(pipe.vae, latents).to(device, pipe.vae.dtype)

        def plain(stored: torch.Tensor = stored) -> Any:
            with torch.no_grad():
                return pipe.vae.decode(stored, return_dict=False)[0]

        def ours(latents: torch.Tensor = latents, **options: Any) -> torch.Tensor:
            return pipeline.decode_pixels(latents, **options).tensor

        def tiled(latents: torch.Tensor = latents) -> torch.Tensor:
            return ours(latents, tiling_mode="always", tiling_backend="exact", tiling_level="recomputed")

        def against_auto(way: Callable[[], Any], auto: Callable[[], Any] = ours) -> dict[str, Any]:
            error = float((way().double() - auto().double()).abs().max())
            return {**peaks(way, device), **paired(way, auto, asked), "pixels_differ_by": error}

        def in_one_piece(plain: Callable[[], Any] = plain, auto: Callable[[], Any] = ours) -> dict[str, Any]:
            try:
                return {**peaks(plain, device), **paired(plain, auto, asked)}
            except Exception as error:
                if is_out_of_memory(error):  # what it is known for
                    return {"skipped": "out of memory"}
                raise

        size = f"{width}×{width // 2}"
        row(work, f"{size}, auto", lambda ours=ours: {**peaks(ours, device), **paired(ours, None, asked)})  # type: ignore[misc]
        row(work, f"{size}, exact tiles, recomputed", lambda tiled=tiled, f=against_auto: f(tiled))  # type: ignore[misc]
        row(work, f"{size}, diffusers in one piece", in_one_piece)
