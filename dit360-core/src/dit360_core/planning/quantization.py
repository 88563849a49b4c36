"""Chooses how weights are stored: what was asked for, what a folder holds already, or what fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, Reason, UnknownName, named, setting
from dit360_core.models.architecture import DENOISER
from dit360_core.options import LoadOptions
from dit360_core.planning.checks import refuse_without_effect
from dit360_core.plugins.choosing import Choice, select
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.plugins.registry import Registry, normal
from dit360_core.system.machine import Machine

if TYPE_CHECKING:
    from dit360_core.models.weights.store import Stored


def quantization_need(options: LoadOptions, machine: Machine, precision: str, lora: bool) -> QuantizationNeed:
    """What a load asks of a quantizer, sizes aside.

    lora: whether there is one.
    """
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

    folder: the model's, which ``auto`` needs to know sizes.
    lora: whether there is one.

    Raises BackendUnavailable or UnknownName: another mode is never put in the place of one that was named.
    """
    need = quantization_need(options, machine, precision, lora)
    if options.quantization_mode == "auto" and folder is not None:
        from dit360_core.planning.layers import with_sizes

        need = with_sizes(need, options, folder, precision, registry)
    return select("quantization", options.quantization_mode, registry, machine, need, probe=_tried)


def check_stored(options: LoadOptions, lora: bool, stored: Mapping[str, Stored]) -> None:
    """Raises InputError for what weights that are stored quantized do not allow.

    lora: whether there is one.
    """
    mode = next(iter(stored.values())).mode
    if lora and options.lora_mode == "fuse" and DENOISER in stored:
        raise InputError(
            f"{options.model} is stored as {mode}, and no LoRA can be fused into rounded weights; use "
            f"{setting('lora_mode', 'adapter')}, or quantize the original model with this LoRA."
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
            f"{named('quantization_mode')} out, or give the original model."
        )
    need = quantization_need(options, machine, precision, lora)
    try:
        choice, implementation = select("quantization", stored.address, registry, machine, need, probe=_tried)
    except UnknownName as error:
        raise BackendUnavailable(
            f"{options.model} is stored as {stored.mode} by {stored.distribution} {stored.version}, which is not "
            f"installed or does not offer it any more; pip install {stored.distribution}.",
            {},
        ) from error
    if not hasattr(implementation, "restore"):
        raise Dit360Error(f"{choice.origin} does not restore what it stored; tell its author.")
    return attrs.evolve(choice, requested=options.quantization_mode, named=0), implementation


def _tried(implementation: Any, machine: Machine, need: QuantizationNeed) -> Iterable[Reason]:
    """What a trial of a quantizer finds; nothing is to be tried of none."""
    if implementation is None:
        return ()
    from dit360_core.planning.layers import try_quantizer

    return try_quantizer(implementation, need)
