"""A pipeline of diffusers that somebody loaded: whether its parts are there, and hold numbers to compute with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dit360_core.errors import InputError, setting
from dit360_core.models.architecture import DENOISER
from dit360_core.system.dtypes import KNOWN


def check_parts(pipe: Any, needed: Iterable[str], usual: str) -> None:
    """Raises InputError for a pipeline without one of these parts.

    usual: the pipeline to give instead.
    """
    if missing := [name for name in needed if getattr(pipe, name, None) is None]:
        raise InputError(f"The {type(pipe).__name__} has no {' and no '.join(missing)}; give a {usual} of diffusers.")


def check_numbers(pipe: Any, parts: Iterable[str]) -> None:
    """Raises InputError unless the parts hold weights in which something can be computed.

    Weights of a byte may lie in it only where something turns them into wider ones, as diffusers' layerwise casting
    does.
    """
    for name in parts:
        part = getattr(pipe, name, None)
        if isinstance(part, torch.nn.Module):
            _check_numbers(name, part)
    dtype = str(getattr(pipe, DENOISER).dtype).removeprefix("torch.")
    if dtype not in KNOWN:
        raise InputError(
            f"The transformer computes in {dtype}, and dit360 in {', '.join(KNOWN)}; load the pipeline with "
            "torch_dtype torch.bfloat16."
        )


def _check_numbers(name: str, part: torch.nn.Module) -> None:
    for path, module in part.named_modules():
        # Quantized layers are classes of whoever quantized, and read their bytes themselves.
        if not type(module).__module__.startswith("torch.nn.") or _is_cast(module):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.dtype.is_floating_point and parameter.dtype.itemsize == 1:
                dtype = str(parameter.dtype).removeprefix("torch.")
                raise InputError(
                    f"The {name} of this pipeline holds weights of {dtype} ({path}.{leaf}), in which nothing can be "
                    "computed; load it with torch_dtype torch.bfloat16, and choose "
                    f"{setting('quantization_mode', 'fp8')} for weights of one byte."
                )


def _is_cast(module: torch.nn.Module) -> bool:
    """Whether diffusers turns a layer's weights into wider ones before it runs."""
    hooks = getattr(module, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook("layerwise_casting") is not None
