"""A FluxPipeline that somebody loaded: whether its parts are those of FLUX, and hold numbers to compute with."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.errors import InputError, ModelError, setting
from dit360_core.models.flux.folder import WEIGHTS
from dit360_core.models.flux.schemas import why_no_painter
from dit360_core.system.dtypes import KNOWN

_TOLD = ("in_channels", "joint_attention_dim", "attention_head_dim", "axes_dims_rope", "guidance_embeds")
_NEEDED = ("transformer", "vae", "scheduler")


def check_given(pipe: Any) -> None:
    """Raises InputError for a pipeline that is none of FLUX's, that paints no prompts, or whose weights are no weights.

    Weights of a byte may lie in it only where something turns them into wider ones, as diffusers' layerwise casting
    does.
    """
    kind = type(pipe).__name__
    if missing := [name for name in _NEEDED if getattr(pipe, name, None) is None]:
        raise InputError(f"The {kind} has no {' and no '.join(missing)}; give a FluxPipeline of diffusers.")
    config = pipe.transformer.config
    if any(getattr(config, name, None) is None for name in _TOLD):
        raise InputError(
            f"The {kind} has a {type(pipe.transformer).__name__}, which is not a FLUX transformer; give a FluxPipeline."
        )
    latents = getattr(pipe.vae.config, "latent_channels", None)
    why = None if latents is None else why_no_painter(config, int(latents))
    if why:
        raise ModelError(f"The transformer of this {kind} {why}.")
    for name in WEIGHTS:
        part = getattr(pipe, name, None)
        if isinstance(part, torch.nn.Module):
            _check_numbers(name, part)
    dtype = str(pipe.transformer.dtype).removeprefix("torch.")
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
