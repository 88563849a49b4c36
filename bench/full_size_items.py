"""What ``bench/full_size.py`` measures: each function is an item, runs in a process of its own, and tells its rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from dit360_core.attention import Kernels
from dit360_core.budget import fit
from dit360_core.errors import Dit360Error, InputError
from dit360_core.flux.engine import as_stored
from dit360_core.flux.placement import place
from dit360_core.forecast import subject_of
from dit360_core.machine import Machine
from dit360_core.memory import is_out_of_memory
from dit360_core.offers import AttentionNeed
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline import Pipeline
from dit360_core.plan import judge
from dit360_core.registry import by_priority, default_registry
from dit360_core.speed import measure
from dit360_core.wrap import Grid
from full_size_parts import (
    GUIDANCE,
    PADDING,
    TINY_TRANSFORMER,
    Asked,
    add_lora,
    conditioning,
    dtype_of,
    flux,
    official_step,
    our_step,
    paired,
    peaks,
    resident,
    text_encoders,
    timed,
    transformer,
)

Tell = Callable[[dict[str, Any]], None]
"""Takes a row, which is kept from then on."""

STEPS = 3
"""Of a sampling in which parts move. The first moves them there and is not among the steps that count."""


def text(asked: Asked, tell: Tell) -> None:
    """Both text encoders, by themselves."""
    for name, (module, length) in text_encoders(asked, torch.bfloat16).items():
        ids = torch.randint(1, 1000, (1, length), device=asked["device"])

        def encode(module: Any = module, ids: torch.Tensor = ids) -> None:
            with torch.no_grad():
                module(input_ids=ids)

        tell({"what": f"{name}, {length} tokens", **peaks(encode, asked["device"]), **paired(encode, None, asked)})


def official(asked: Asked, tell: Tell, precision: str) -> None:
    """The authors' way: diffusers, the LoRA beside the weights."""
    module = transformer(asked, dtype_of(precision))
    try:
        add_lora(module)
        what = f"diffusers, {precision}, LoRA beside the weights"
    except ImportError:
        what = f"diffusers, {precision}, no LoRA since peft is not installed"
    compared(asked, tell, what, official_step(module, asked))


def fused(asked: Asked, tell: Tell) -> None:
    """The same LoRA, in the weights."""
    pipe = flux(asked)
    add_lora(pipe.transformer)

    def fuse() -> None:
        pipe.transformer.fuse_lora()
        pipe.transformer.unload_lora()

    seconds = timed(fuse, asked["device"])
    pipeline = Pipeline.from_diffusers(pipe, attention_backend="sdpa")
    compared(asked, tell, "bf16, LoRA fused", our_step(pipeline, asked), fusing_s=seconds)


def attention(asked: Asked, tell: Tell) -> None:
    """Every kernel in one model, each against PyTorch's own choice."""
    pipeline = Pipeline.from_diffusers(flux(asked), attention_backend="sdpa")
    reference = our_step(pipeline, asked)
    config, registry = pipeline.engine.transformer.config, default_registry()
    machine = Machine.detect(asked["device"])
    need = AttentionNeed(
        device=asked["device"],
        dtype="bf16",
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        length=Grid.of_picture(asked["width"], asked["width"] // 2, PADDING).tokens + (16 if asked["small"] else 512),
    )
    kernels = Kernels(registry, machine, True)
    for entry in sorted(registry.entries("attention"), key=by_priority):
        what = f"bf16, {entry.address}"
        reasons = judge(entry, machine, need)
        if reasons or entry.offer.stores_scores:
            # Those that store all scores would need 22 GB for them in float32; docs/attention-matrix.md has them.
            tell({"what": what, "skipped": "; ".join(map(str, reasons)) or "stores all scores"})
            continue
        try:
            _, attend = kernels.choose(entry.address, need)
            step = our_step(pipeline, asked, attend)
            tell({"what": what, **peaks(step, asked["device"]), **paired(step, reference, asked)})
        except Exception as error:  # noqa: BLE001 - a kernel may raise anything, and the others go on
            tell(failure(what, error))


def compiled(asked: Asked, tell: Tell) -> None:
    """torch.compile of the blocks, each kind once."""
    pipe = flux(asked)
    pipeline = Pipeline.from_diffusers(pipe, attention_backend="sdpa", compile_blocks=True)
    what = "bf16, compile_blocks=True"
    compared(asked, tell, what, our_step(pipeline, asked))


def quantized(asked: Asked, tell: Tell, mode: str) -> None:
    """The transformer in fewer bits."""
    pipe = flux(asked)
    began = time.perf_counter()
    pipeline = Pipeline.from_diffusers(
        pipe, attention_backend="sdpa", quantization_mode=mode, quantization_parts="transformer"
    )
    seconds = time.perf_counter() - began
    compared(asked, tell, f"bf16, {mode}", our_step(pipeline, asked), quantizing_s=seconds)


def offloaded(asked: Asked, tell: Tell, offload: str) -> None:
    """Parts rest in system memory; sampled as a whole, since that is when they move."""
    pipe = flux(asked).to("cpu")
    if asked["device"] == "cuda":
        torch.cuda.empty_cache()
    pipeline = placed(pipe, offload, asked, attention_backend="sdpa")
    moved_picture(asked, tell, f"bf16, offload={offload}", pipeline, {})


def decode(asked: Asked, tell: Tell, width: int) -> None:
    """The autoencoder: ours, and diffusers' in one piece, which does not know that left and right meet."""
    width = width // 8 if asked["small"] else width
    pipe = flux(asked, config=TINY_TRANSFORMER)
    pipeline = Pipeline.from_diffusers(pipe)
    latents = torch.randn(1, 16, width // 16, width // 8, generator=torch.Generator().manual_seed(1))
    stored = as_stored(pipe.vae, latents).to(asked["device"], pipe.vae.dtype)

    def plain() -> None:
        with torch.no_grad():
            pipe.vae.decode(stored, return_dict=False)

    def ours() -> None:
        pipeline.decode(latents)

    size, reference = f"{width}×{width // 2}", None
    own = {"what": f"decode {size}", **peaks(ours, asked["device"])}
    try:
        tell({"what": f"decode {size}, diffusers in one piece", **peaks(plain, asked["device"])})
        reference = plain
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tell(failure(f"decode {size}, diffusers in one piece", error))
        torch.cuda.empty_cache()
    tell({**own, **paired(ours, reference, asked)})


def preset(asked: Asked, tell: Tell, gigabytes: int) -> None:
    """A card of so much memory, with the options that the planner gives for it."""
    cap = gigabytes * 2**30
    preset_with(asked, tell, f"{gigabytes} GB", cap, planned(cap, asked["device"]))


def planned(cap: int, device: str) -> dict[str, Any]:
    """What the planner decides for FLUX.1-dev at 2048×1024 on a card of ``cap`` bytes."""
    asked = LoadOptions(model="dit360", vram=f"{cap / 2**30:g}", device=device)
    subject = subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), default_registry())
    return fit(asked, subject, measure(subject.machine, subject.precision)).best.differs(asked)


def preset_with(asked: Asked, tell: Tell, name: str, cap: int, options: dict[str, Any]) -> None:
    """A few steps and a decode where torch may allocate ``cap`` bytes and not one more; CUDA's own are beside them.

    options: of LoadOptions and DecodeOptions. Weights are made, and quantized, before the cap holds, since a load
    would bring them layer by layer from files.
    """
    options = dict(options)
    offload = options.pop("offload", "none")
    fields = [field.name for field in attrs.fields(DecodeOptions)]
    decoding = {option: options.pop(option) for option in fields if option in options}
    # Of loading files, of which there are none.
    for option in ("model", "device", "lora", "lora_strength", "lora_mode", "evict", "vram", "preset"):
        options.pop(option, None)
    pipe = flux(asked, dtype_of(options.pop("precision", "bf16")))
    if options.get("quantization_mode", "none") != "none":
        # There is no text encoder here that could be quantized too.
        options["quantization_parts"] = "transformer"
    said = ", ".join(f"{key}={value}" for key, value in {**options, "offload": offload, **decoding}.items())

    def capped() -> None:
        if asked["device"] == "cuda":
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
            # What decides by free memory, such as the decode, must see the small card too.
            torch.cuda.mem_get_info = lambda device=None: (max(0, cap - torch.cuda.memory_reserved()), cap)

    pipeline = placed(pipe, offload, asked, before=capped, **options)
    moved_picture(asked, tell, f"{name}: {said}", pipeline, decoding)


# ------------------------------------------------------------------------------------------------------ inner parts


def placed(
    pipe: Any, offload: str, asked: Asked, before: Callable[[], None] = lambda: None, **options: Any
) -> Pipeline:
    """A pipeline whose parts rest where ``offload`` says. before: called when all of it is in system memory."""
    if offload == "sequential" and asked["device"] == "cpu":
        raise InputError("accelerate moves single layers only between system memory and an accelerator")
    # Wrapped while it is on the device, where it computes and is quantized.
    device = torch.device(asked["device"])
    pipeline = Pipeline.from_diffusers(pipe.to(device), **options)
    pipe.to("cpu")
    before()
    if offload == "model" and device.type == "cpu":
        pipe.enable_model_cpu_offload(device=device)
    else:
        place(pipe, offload, device)
    return pipeline


def compared(asked: Asked, tell: Tell, what: str, step: Callable[[], Any], **more: Any) -> None:
    """A row: memory of this one alone, then steps of it and of the resident pipeline in turns."""
    found = {"what": what, **more, **peaks(step, asked["device"])}
    tell({**found, **paired(step, resident(asked), asked)})


def moved_picture(asked: Asked, tell: Tell, what: str, pipeline: Pipeline, decoding: dict[str, Any]) -> None:
    """A row: a short sampling and a decode. seconds: of a step after the first; first_s: of the first, with moves."""
    engine, marks = pipeline.engine, []
    given = conditioning(asked, engine.transformer.config, engine.dtype)

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
    steps = sorted(b - a for a, b in itertools.pairwise(marks[1:]))
    decoding_took = peaks(lambda: pipeline.decode(latents, **decoding), asked["device"])
    tell(
        {
            "what": what,
            "seconds": steps[len(steps) // 2],
            "first_s": marks[1] - marks[0],
            "sampling_peak": sampling["peak"],
            "decode_s": decoding_took["first_s"],
            "decode_peak": decoding_took["peak"],
            "peak": max(sampling["peak"], decoding_took["peak"]),
            "reserved": max(sampling["reserved"] or 0, decoding_took["reserved"] or 0) or None,
        }
    )


def failure(what: str, error: BaseException) -> dict[str, Any]:
    """A row of what did not work: what cannot be had here is skipped, the rest has failed."""
    if is_out_of_memory(error):
        return {"what": what, "failed": "out of memory"}
    if isinstance(error, Dit360Error | ImportError):
        return {"what": what, "skipped": str(error)}
    return {"what": what, "failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}


@attrs.frozen
class Item:
    """limit: seconds, after which its process is ended."""

    run: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    limit: float = 75


# In the order of what would be missed most, since time may end before they do.
ITEMS = {
    "official-fp16": Item(official, ("fp16",)),
    "official-bf16": Item(official, ("bf16",)),
    "attention": Item(attention, (), 120),
    "fused": Item(fused),
    "decode-2048": Item(decode, (2048,)),
    "fp8": Item(quantized, ("fp8",)),
    "int8": Item(quantized, ("int8",)),
    "int4": Item(quantized, ("int4",)),
    "preset-24": Item(preset, (24,)),
    "preset-16": Item(preset, (16,)),
    "preset-12": Item(preset, (12,)),
    "preset-8": Item(preset, (8,)),
    "offload-group": Item(offloaded, ("group",)),
    "offload-model": Item(offloaded, ("model",)),
    "compile": Item(compiled, (), 150),
    "text": Item(text),
    "decode-4096": Item(decode, (4096,)),
    "decode-8192": Item(decode, (8192,)),
    "offload-sequential": Item(offloaded, ("sequential",)),
}
