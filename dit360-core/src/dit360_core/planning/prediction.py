"""The memory and the work of each phase of a picture, before any weights are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture
from dit360_core.plugins.figures import claimed_autoencoding
from dit360_core.plugins.offers import TilingImplementation, TilingSettings
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.phases import PhaseKind

if TYPE_CHECKING:
    from dit360_core.models.shapes.shapes import Quantized, Shapes, Weights
    from dit360_core.models.shapes.tracing import Traced

_ON_THE_WAY = {"cuda": 3, "cpu": 1}
"""Blocks at hand at once: on CUDA one computes, one comes, and one may still be held by the device's queue."""
HEAP_HOLES = 2.0
MAPPED = 32 * 2**20
"""Linux's C library takes tensors of fewer bytes from a heap, where holes are about as large as they are; larger ones
it maps one by one and gives back at once."""
CUDA_CONTEXT = 450 * 2**20
"""What CUDA and its libraries take of a device before the first tensor; not among what torch counts."""


@attrs.frozen(kw_only=True)
class Setup:
    """What decides about memory.

    quantized: part → how, for those that are.
    stores_scores: whether attention does.

    tokens: of the image, pad columns included, and of the prompt.
    beside: bytes of a LoRA beside the transformer's weights.
    state: bytes of a picture on its way, where more than a window of it is not seen at once.
    budget: bytes to keep to, everything included, or None.
    encodes: whether a picture is given, which is encoded first.
    tiling: what will decode and encode, None if it is not known.
    tiling_origin: its name, and whose it is.
    """

    device: str
    precision: str
    offload: str = "none"
    evict: str = "none"
    quantized: Mapping[str, Quantized] = attrs.field(factory=dict)
    stores_scores: bool = False
    slice_size: int = 0
    width: int
    height: int
    tokens: tuple[int, int]
    beside: int = 0
    state: int = 0
    encodes: bool = False
    tiling: TilingImplementation | None = None
    tiling_origin: str = ""
    budget: int | None = None


@attrs.frozen(kw_only=True)
class PhaseMemory:
    """One phase.

    weights: bytes of those on the device.
    working: what is made on the way, at most.

    total: with what the process or the device holds anyhow.
    dominated_by: what most of it is.
    operations: of one run.
    moved: bytes of weights that come to the device for one run.
    level: how the autoencoder runs, for encoding and decoding.
    """

    name: PhaseKind
    weights: int
    working: int
    total: int
    dominated_by: str
    operations: int = 0
    moved: int = 0
    level: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class Prediction:
    """The memory of every phase of a picture.

    held: bytes that are there before the model: the process itself, or CUDA's context.
    host: of system memory that weights wait in or pass through on their way to a device of its own; 0 where there is
    none.
    """

    phases: tuple[PhaseMemory, ...]
    held: int
    host: int

    @property
    def peak(self) -> PhaseMemory:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)

    def phase(self, name: PhaseKind) -> PhaseMemory:
        """The phase of that kind."""
        return next(phase for phase in self.phases if phase.name == name)

    def as_dict(self) -> dict[str, Any]:
        return {"held": self.held, "host": self.host, "phases": [phase.as_dict() for phase in self.phases]}


def predict(shapes: Shapes, setup: Setup, held: int) -> Prediction:
    """What each phase takes.

    held: as in :class:`Prediction`.
    """
    family = shapes.architecture
    parts = {part: _weights(shapes, setup, part) for part in shapes.there}
    size, dtype = allocation(setup.device), torch_dtype(setup.precision)
    # oneDNN, which multiplies what has 16 bits on a CPU, brings weights into its own order first.
    packs = (dtype,) if setup.device == "cpu" and dtype.itemsize == 2 else ()
    image, text = setup.tokens
    phases = []

    def phase(name: PhaseKind, using: Iterable[str], made: Traced | int, what: str, **more: Any) -> PhaseMemory:
        there = _at_hand(family, setup, parts, using)
        weights, working = sum(there.values()), made if isinstance(made, int) else made.peak
        told = _dominant(
            family, there, working, what if isinstance(made, int) or not made.at else f"{what} at {_short(made.at)}"
        )
        return PhaseMemory(
            name=name, weights=weights, working=working, total=held + weights + working, dominated_by=told,
            moved=_moved(family, setup, parts, using), **more,
        )  # fmt: skip

    def autoencoder(name: PhaseKind, what: str) -> PhaseMemory:
        weights = sum(_at_hand(family, setup, parts, [AUTOENCODER]).values())
        room = None if setup.budget is None else setup.budget - held - weights
        bytes_, level, operations = autoencoding(shapes, setup, room, encoding=name == PhaseKind.ENCODE)
        return phase(name, [AUTOENCODER], bytes_, f"{what}, {level}", level=level, operations=operations)

    if setup.device == "cpu":
        # Of files that are disk-offloaded later, too: they are read whole first.
        read = sum(weights.total for part, weights in parts.items() if part not in family.evicted(setup.evict))
        what = "weights, all parts at once"
        phases.append(
            PhaseMemory(name=PhaseKind.LOADING, weights=read, working=0, total=held + read, dominated_by=what)
        )
    if AUTOENCODER in parts and setup.encodes:
        phases.append(autoencoder(PhaseKind.ENCODE, "the encoder"))
    encoders = [part for part in family.encoders if part in parts]
    if encoders:
        runs = [shapes.text(part, dtype, text, setup.quantized.get(part), size, packs) for part in encoders]
        largest = max(runs, key=lambda run: run.peak)
        phases.append(
            phase(PhaseKind.TEXT, encoders, largest, "activations", operations=sum(r.operations for r in runs))
        )
    if DENOISER in parts:
        step = shapes.step(
            dtype, image, text, stores_scores=setup.stores_scores, slice_size=setup.slice_size,
            quantized=setup.quantized.get(DENOISER), size=size, packs=packs,
        )  # fmt: skip
        step = attrs.evolve(step, peak=step.peak + setup.state)
        what = "attention scores" if setup.stores_scores and step.at.endswith("attn") else "activations"
        phases.append(phase(PhaseKind.STEP, [DENOISER], step, what, operations=step.operations))
    if AUTOENCODER in parts:
        phases.append(autoencoder(PhaseKind.DECODE, "the decoder"))
    waiting = _host(family, setup, parts) if setup.device == "cuda" else 0
    return Prediction(phases=tuple(phases), held=held, host=waiting)


def autoencoding(shapes: Shapes, setup: Setup, room: int | None, *, encoding: bool = False) -> tuple[int, str, int]:
    """Bytes, level and operations of decoding, or of encoding a picture.

    room: bytes that there are for it; None: what is free.
    """
    from dit360_core.sphere.vae import latent_channels

    vae = shapes.vae(torch_dtype(shapes.architecture.precision_of(AUTOENCODER, setup.precision)))
    tiling = setup.tiling
    if tiling is None or not hasattr(tiling, "predicts"):
        from dit360_core.plugins.builtin.tiling_others import Whole

        tiling = Whole(TilingSettings())
    of_latents = 1, latent_channels(vae), setup.height // 8, setup.width // 8
    # A tiling that says nothing of encoding is taken to need as much as for decoding.
    if encoding and (asks := getattr(tiling, "predicts_encoding", None)) is not None:
        of_pixels = 1, 3, setup.height, setup.width
        return claimed_autoencoding(setup.tiling_origin, asks, vae, of_pixels, setup.device, room)
    return claimed_autoencoding(setup.tiling_origin, tiling.predicts, vae, of_latents, setup.device, room)


def allocation(device: str) -> Callable[[int], int]:
    """What a device's allocator takes for a tensor of so many bytes."""
    if device == "cuda":
        return _in_blocks
    return _in_a_heap if device == "cpu" and sys.platform.startswith("linux") else int


def _in_blocks(count: int) -> int:
    return -(-count // 512) * 512


def _in_a_heap(count: int) -> int:
    return count if count >= MAPPED else int(HEAP_HOLES * count)


# ------------------------------------------------------------------------------------------------- where weights are


def _weights(shapes: Shapes, setup: Setup, part: str) -> Weights:
    precision = shapes.architecture.precision_of(part, setup.precision)
    found = shapes.weights(part, torch_dtype(precision), setup.quantized.get(part))
    if part != DENOISER or not setup.beside:
        return found
    # Spread over the blocks as their own weights are.
    share = setup.beside * found.block // found.total
    return attrs.evolve(found, total=found.total + setup.beside, block=found.block + share)


def _at_hand(family: Architecture, setup: Setup, parts: Mapping[str, Weights], using: Iterable[str]) -> dict[str, int]:
    """Bytes of each part that are on the device while some are used."""
    using = [part for part in using if part in parts]
    if setup.offload == "sequential":
        return {part: parts[part].layer for part in using}
    if setup.offload == "model":
        return {part: parts[part].total for part in using}
    there = {}
    for part, weights in parts.items():
        if part in family.by_blocks(setup.offload):
            if part in using:
                there[part] = weights.rest + _ON_THE_WAY.get(setup.device, 1) * weights.block
        elif part not in _gone(family, setup, using):
            there[part] = weights.total
    return there


def _gone(family: Architecture, setup: Setup, using: Iterable[str]) -> set[str]:
    """Parts that were evicted by the time that others are used."""
    return set(family.evicted(setup.evict)) - set(using)


def _moved(family: Architecture, setup: Setup, parts: Mapping[str, Weights], using: Iterable[str]) -> int:
    every = setup.offload in ("model", "sequential")
    return sum(parts[part].total for part in using if every or part in family.by_blocks(setup.offload))


def _host(family: Architecture, setup: Setup, parts: Mapping[str, Weights]) -> int:
    """Weights pass through system memory on their way, if they do not wait in it."""
    if setup.evict == "all":
        return max(weights.total for weights in parts.values())
    # One that is read again waits beside the others while it is used, if they wait.
    later = _gone(family, setup, ()) if setup.offload == "none" else ()
    return sum(weights.total for part, weights in parts.items() if part not in later)


# ------------------------------------------------------------------------------------------------------ what to say


def _dominant(family: Architecture, there: Mapping[str, int], working: int, what: str) -> str:
    if there and max(there.values()) >= working:
        return f"weights of the {family.part(max(there, key=lambda name: there[name])).words}"
    return what


def _short(path: str) -> str:
    """The end of a module's path without numbers: which block it is does not matter."""
    return ".".join([name for name in path.split(".") if not name.isdigit()][-2:])
