"""Chooses how weights are stored: what was asked for, what a folder holds already, or what fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, Reason, UnknownName
from dit360_core.models.architecture import DENOISER
from dit360_core.models.families import architecture_of
from dit360_core.options import LoadOptions
from dit360_core.planning.checks import refuse_without_effect
from dit360_core.plugins.choosing import Choice, select
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.plugins.registry import Registry, normal
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import free_memory

if TYPE_CHECKING:
    from dit360_core.models.weights.store import Stored

_SHARE_FOR_WEIGHTS = 0.75
"""Of free memory; the rest is for what a step and the autoencoder need."""


def quantization_need(options: LoadOptions, machine: Machine, precision: str, lora: bool) -> QuantizationNeed:
    """What a load asks of a quantizer, sizes aside. lora: whether there is one."""
    return QuantizationNeed(
        device=machine.device,
        dtype=precision,
        offload=options.offload,
        adapter=lora and options.lora_mode == "adapter",
    )


def choose_quantization(
    options: LoadOptions,
    registry: Registry,
    machine: Machine,
    precision: str,
    *,
    folder: Path | None = None,
    lora: bool = False,
) -> tuple[Choice, Any]:
    """How the weights are stored, and what does it (None: nothing is to be done), tried on a small layer.

    folder: the model's, which ``auto`` needs to know sizes. lora: whether there is one.

    Raises BackendUnavailable or UnknownName: another mode is never put in the place of one that was named.
    """
    need = quantization_need(options, machine, precision, lora)
    if options.quantization_mode == "auto" and folder is not None:
        need = _with_sizes(need, options, folder, precision)
    return select("quantization", options.quantization_mode, registry, machine, need, probe=probe_quantizer)


def check_stored(options: LoadOptions, lora: bool, stored: Mapping[str, Stored]) -> None:
    """Raises InputError for what weights that are stored quantized do not allow. lora: whether there is one."""
    mode = next(iter(stored.values())).mode
    if lora and options.lora_mode == "fuse" and DENOISER in stored:
        raise InputError(
            f"{options.model} is stored as {mode}, and no LoRA can be fused into rounded weights; use "
            "lora_mode=adapter, or quantize the original model with this LoRA."
        )
    if len(stored) > 1:
        refuse_without_effect(options, f"{options.model} is stored as {mode}")


def choose_stored(
    stored: Stored, options: LoadOptions, registry: Registry, machine: Machine, precision: str, *, lora: bool
) -> tuple[Choice, Any]:
    """What restores weights that are stored quantized.

    Raises InputError if another mode was asked for, BackendUnavailable if what made them is not there or cannot run.
    """
    asked = normal(options.quantization_mode)
    if asked not in ("none", "auto", stored.mode, stored.address):
        raise InputError(
            f"{options.model} is stored as {stored.mode} and cannot become {options.quantization_mode}; leave "
            "quantization_mode out, or give the original model."
        )
    need = quantization_need(options, machine, precision, lora)
    try:
        choice, implementation = select("quantization", stored.address, registry, machine, need, probe=probe_quantizer)
    except UnknownName as error:
        raise BackendUnavailable(
            f"{options.model} is stored as {stored.mode} by {stored.distribution} {stored.version}, which is not "
            f"installed or does not offer it any more; pip install {stored.distribution}.",
            {},
        ) from error
    if not hasattr(implementation, "restore"):
        raise Dit360Error(f"{choice.origin} does not restore what it stored; tell its author.")
    return attrs.evolve(choice, requested=options.quantization_mode, named=0), implementation


def probe_quantizer(implementation: Any, machine: Machine, need: QuantizationNeed) -> Iterable[Reason]:
    """Tries a quantizer on a small layer where it is to run."""
    if implementation is None:
        return
    import torch

    from dit360_core.models.weights.conversion import NotQuantized, convert

    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(128, 256)
    for tensor in (linear.weight.data, linear.bias.data):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    try:
        convert(linear.to(need.device, torch_dtype(need.dtype)), implementation, name="of a trial", one_token=False)
    except NotQuantized as error:
        yield Reason("probe_failed", f"in a trial {error.why}")
    except Dit360Error as error:
        yield Reason("probe_failed", f"a trial failed: {str(error).rstrip('.')}")


def _with_sizes(need: QuantizationNeed, options: LoadOptions, folder: Path, precision: str) -> QuantizationNeed:
    from dit360_core.models.weights.selection import selections
    from dit360_core.models.weights.store import weights_of

    if options.offload in ("sequential", "group", "disk"):
        return need  # layer by layer, or block by block, anything fits
    family = architecture_of(folder)
    itemsize = torch_dtype(precision).itemsize
    wanted = family.quantized_by(options.quantization_parts)
    modules = {part: family.networks.empty(part, folder / part) for part in wanted}
    found = selections(modules, options.quantization_skip, family.networks.policy)
    chosen = {part: selection.layers for part, selection in found.items()}
    sizes = tuple(weights_of(folder, part, chosen.get(part, ()), itemsize) for part in family.names)
    if options.offload == "none":
        sizes = ((sum(weights for weights, _ in sizes), sum(others for _, others in sizes)),)
    return attrs.evolve(need, sizes=sizes, budget=int(_SHARE_FOR_WEIGHTS * free_memory(need.device)))
