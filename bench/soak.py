"""Two hundred pictures in one process, each with other options, and whether anything of them stays.

    python bench/soak.py
    python bench/soak.py --generations 24 --of-one-model 12

Sizes, steps, solvers, kernels, slices, tiles, guidance, beginnings, LoRAs, previews and errors change from picture to
picture, in an order drawn once; the model is loaded anew every few pictures, in another way each time. After every
picture the process is counted. It fails if the count grows once everything has been used for the first time.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs
import dit360_core as dit360
import psutil
import torch
import typer
from dit360_core.plugins.builtin import PLUGINS
from dit360_core.plugins.builtin.attention_kernels import eager
from dit360_core.plugins.hookspecs import hookimpl
from dit360_core.plugins.offers import AttentionBackend
from dit360_core.plugins.registry import Registry
from dit360_core.system.memory import give_back_freed_memory
from torch._subclasses import FakeTensor

MIB = 2**20
PROMPTS = ("a castle above a meadow", "a calm sea under stars", "snowy mountains at noon")
LOADING: tuple[dict[str, Any], ...] = (
    {},
    {"evict": "all"},
    {"offload": "disk"},
    {"quantization_mode": "int8"},
    {"evict": "text", "attention_backend": "eager", "attention_slice_size": 64},
)
"""How the models are loaded, in turn."""
LIMITS = {
    "first": MIB / 16,  # what tables that are made once take
    "rss": 32 * MIB,  # which the holes of the C library's allocator move
    "objects": 0.01,
    "files": 0,
    "threads": 0,
    "storage": 0,
    "per_model": MIB,  # prompts that are remembered where their encoders are dropped
}
"""Growth that is none. See :func:`growth`."""


def live_tensors() -> dict[int, int]:
    """Address → bytes of every storage that a tensor of this process holds, garbage not counted."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        # Of the type itself, since isinstance would ask lazy modules for their class.
        kind = type(thing)
        # What torch.compile traces with holds nothing, and asking where it lies is an error or a warning.
        if not issubclass(kind, torch.Tensor) or issubclass(kind, FakeTensor):
            continue
        if thing.layout is torch.strided and thing.device.type != "meta":
            with contextlib.suppress(RuntimeError):  # a functional tensor's
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


def live_bytes() -> int:
    """Bytes of all storages that tensors hold."""
    return sum(live_tensors().values())


@attrs.frozen(kw_only=True)
class Count:
    """What the process holds. storage, rss: bytes. tensors: storages. objects: those of Python's collector."""

    rss: int
    storage: int
    tensors: int
    files: int
    threads: int
    objects: int

    @classmethod
    def now(cls) -> Count:
        tensors = live_tensors()
        give_back_freed_memory("cpu")
        process = psutil.Process()
        return cls(
            rss=process.memory_info().rss,
            storage=sum(tensors.values()),
            tensors=len(tensors),
            files=process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
            threads=process.num_threads(),
            objects=len(gc.get_objects()) + gc.get_freeze_count(),
        )


class Faulty:
    """A plugin with two kernels: one that is broken, and one that the allocator refuses memory."""

    __name__ = "faulty"

    @hookimpl
    def dit360_attention_backends(self) -> Iterator[AttentionBackend]:
        yield AttentionBackend(name="breaks", api=1, priority=-90, load=lambda: _failing(_break))
        yield AttentionBackend(name="scarce", api=1, priority=-91, load=lambda: _failing(_run_out))


def _break() -> None:
    raise ValueError("broken on purpose")


def _run_out() -> None:
    torch.empty(2**60, dtype=torch.uint8)


faults: list[str] = []
"""What the two kernels still have to do."""


def _failing(fail: Any) -> Any:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        # Not in its trial, which has fewer queries than keys or 300 of both.
        if q.shape == k.shape and q.shape[1] != 300 and faults:
            faults.pop()
            fail()
        return eager(q, k, v, scale=scale)

    return attend


def write_lora(folder: Path) -> Path:
    """A small LoRA of random numbers for the embedded model."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_k"):
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(4, 192, generator=generator) * 0.1
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(192, 4, generator=generator) * 0.1
    file = folder / "lora.safetensors"
    save_file(tensors, file)
    return file


def drawn(chance: random.Random, schedulers: list[str]) -> dict[str, Any]:
    """The options of one picture."""
    solver = chance.choice(schedulers)
    guided = chance.random() < 0.3
    return {
        "width": chance.choice(WIDTHS),
        "steps": chance.randint(1, 3),
        "seed": chance.randrange(1000),
        "scheduler_type": solver,
        "guidance": chance.choice((None, 2.0, 4.5)),
        "attention_backend": chance.choice(("pipeline", "eager", "sdpa", "sdpa-math")),
        "attention_slice_size": chance.choice((-1, 0, 48)),
        "circular_mode": chance.choice(("pad", "pad", "bias")),
        "latent_rotation": chance.choice((None, True, False)),
        "yaw_consistency": chance.choice((0.0, 0.0, 0.5)),
        "cube_consistency": chance.choice((0.0, 0.0, 0.5)),
        "log_memory_stats": chance.random() < 0.1,
        **({"true_guidance": 2.0, "negative_prompt": chance.choice(("fog", "people"))} if guided else {}),
        **({"timestep_schedule": chance.choice(("linear", "cosine"))} if solver == "flow_match" else {}),
        **({"scheduler_eta": chance.choice((0.0, 1.0))} if solver == "ddim" else {}),
        **chance.choice(
            (
                {"tiling_mode": "never"},
                {"tiling_mode": "always"},
                {"tiling_level": "stored"},
                {"tiling_level": "mixed"},
                {"tiling_level": "recomputed"},
                {"tiling_backend": "whole"},
                {"tiling_backend": "blended"},
            )
        ),
    }


WHOLE = {"attention_slice_size": 0, "circular_mode": "pad"}
"""Calls of attention as the kernels that fail know them."""
WIDTHS = (64, 96, 128, 192)
WAYS = ("text", "image", "taps", "lora", "stages", "bad option", "raising kernel", "scarce memory", "raising tap")


def one(pipe: dit360.Pipeline, way: str, options: dict[str, Any], prompt: str, lora: Path) -> None:
    """One picture, or one that fails. Raises AssertionError if it should have failed."""
    decoding = {name: options[name] for name in options if name.startswith("tiling")}
    sampling = {name: options[name] for name in options if name not in decoding}
    failing: dict[str, tuple[Any, dict[str, Any]]] = {
        "bad option": (dit360.InputError, {"steps": 0}),
        "raising kernel": ((ValueError, dit360.Dit360Error), {**WHOLE, "attention_backend": "breaks"}),
        "raising tap": (KeyError, {"tap": lambda *_: {}["nothing"]}),
    }
    faults[:] = [way] if way in ("raising kernel", "scarce memory") else []
    if way in failing:
        error, changed = failing[way]
        try:
            pipe.generate(prompt, **{**options, **changed})
        except error:
            return
        raise AssertionError(f"{way}: nothing was raised")
    if way == "scarce memory":
        pipe.generate(prompt, **{**options, **WHOLE, "attention_backend": "scarce"})
    elif way == "image":
        begun = pipe.generate(prompt, **options)
        pipe.generate(prompt, image=begun, denoise=0.5, **options)
    elif way == "taps":
        pipe.generate(prompt, tap=lambda done, steps, latents: (pipe.preview(latents), pipe.decode(latents)), **options)
    elif way == "lora" and pipe.state.offload != "disk":
        pipe.set_loras([(str(lora), 0.5)])
        pipe.generate(prompt, **options)
        pipe.set_loras([])
    elif way == "stages":
        given = {name: value for name, value in sampling.items() if name not in ("true_guidance", "negative_prompt")}
        latents = pipe.sample(pipe.encode(prompt), **given)
        pipe.encode_image(pipe.decode(latents, **decoding))
    else:
        pipe.generate(prompt, **options)


def soak(generations: int, of_one_model: int) -> dict[str, Any]:
    """The counts after each picture, and those without any model in between."""
    registry, chance = Registry(builtin=(*PLUGINS, Faulty())), random.Random(1)
    schedulers = [entry.name for entry in registry.entries("scheduler") if not entry.refused]
    pictures: list[dict[str, Any]] = []
    between: list[Count] = []
    with tempfile.TemporaryDirectory() as folder:
        lora = write_lora(Path(folder))
        pipe: dit360.Pipeline | None = dit360.load("tiny", device="cpu", registry=registry)
        # What is imported, cached or tried at its first use is there before anything is counted.
        for way, width, solver in zip(WAYS, itertools.cycle(WIDTHS), itertools.cycle(schedulers), strict=False):
            options = {**drawn(chance, [solver]), "width": width, "cube_consistency": 0.5}
            options["log_memory_stats"] = way == WAYS[0]
            one(pipe, way, options, PROMPTS[0], lora)
        pipe = None
        first = live_bytes()
        gc.freeze()  # from now on what libraries are made of is counted, and not looked through
        for i in range(generations):
            if i % of_one_model == 0:
                pipe = None
                between.append(Count.now())
                loading = LOADING[i // of_one_model % len(LOADING)]
                pipe = dit360.load("tiny", device="cpu", registry=registry, **loading)
            assert pipe is not None
            way, started = WAYS[i % len(WAYS)], time.perf_counter()
            one(pipe, way, drawn(chance, schedulers), chance.choice(PROMPTS), lora)
            seconds = time.perf_counter() - started
            pictures.append({"way": way, "loading": loading, "seconds": round(seconds, 3), **attrs.asdict(Count.now())})
        pipe = None
        between.append(Count.now())
    return {"first": first, "pictures": pictures, "between": [attrs.asdict(count) for count in between]}


def growth(report: dict[str, Any]) -> dict[str, float]:
    """From the second to the last quarter: medians, except for what has no excuse to grow at all.

    first: bytes of tensors that the first model of the process left when it was dropped. rss: bytes. objects: a share.
    storage: bytes of tensors while no model is loaded. per_model: by how much more bytes of tensors there were, at
    most, with a model that was loaded in one way in the second half of its pictures than in the first.
    """
    pictures, between = report["pictures"], report["between"]
    quarter = len(pictures) // 4
    early, late = pictures[quarter : 2 * quarter], pictures[-quarter:]

    def median(some: list[dict[str, Any]], name: str) -> float:
        return statistics.median(one[name] for one in some)

    most: dict[str, list[int]] = {}
    for picture in pictures:
        most.setdefault(json.dumps(picture["loading"]), []).append(picture["storage"])
    return {
        "first": report["first"],
        "rss": median(late, "rss") - median(early, "rss"),
        # Without a model, since models that were loaded in other ways are not of as many objects.
        "objects": between[-1]["objects"] / between[len(between) // 2]["objects"] - 1,
        "files": between[-1]["files"] - between[0]["files"],
        "threads": between[-1]["threads"] - between[0]["threads"],
        "storage": max(count["storage"] for count in between) - between[0]["storage"],
        "per_model": max(max(found[len(found) // 2 :]) - max(found[: len(found) // 2]) for found in most.values()),
    }


def grown(found: dict[str, float]) -> list[str]:
    """What grew, a sentence each."""
    return [
        f"{name} grew by {found[name]:g}, and {limit:g} is allowed"
        for name, limit in LIMITS.items()
        if found[name] > limit
    ]


def main(
    generations: Annotated[int, typer.Option(help="Pictures.")] = 200,
    of_one_model: Annotated[int, typer.Option(help="Pictures after which the model is loaded anew.")] = 10,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/soak.json"),
) -> None:
    """Make the pictures, print what grew, and end with 1 if anything did."""
    torch.set_num_threads(1)
    logging.getLogger("dit360").setLevel(logging.ERROR)
    started = time.perf_counter()
    report = soak(generations, of_one_model)
    seconds = time.perf_counter() - started
    found = growth(report)
    told = {"generations": generations, "seconds": round(seconds), "growth": found, **report}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(told, indent=1), encoding="utf-8")
    last = report["between"][-1]
    print(f"{generations} generations in {seconds:.0f} s, {len(report['between']) - 1} models one after the other.")
    print(
        f"rss {found['rss'] / MIB:+.1f} MiB from the second to the last quarter, {last['rss'] / MIB:.0f} MiB at the end"
    )
    print(f"tensors without a model: {found['storage']:+.0f} bytes; with one: {found['per_model'] / 1024:+.1f} KiB")
    print(f"objects {found['objects']:+.2%}, open files {found['files']:+.0f}, threads {found['threads']:+.0f}")
    complaints = grown(found)
    print("\n".join(complaints) or "Nothing grew.")
    raise typer.Exit(1 if complaints else 0)


if __name__ == "__main__":
    typer.run(main)
