"""A FluxPipeline that somebody loaded: whether its parts are those of FLUX, and hold numbers to compute with."""

from __future__ import annotations

from typing import Any

from dit360_core.errors import InputError, ModelError
from dit360_core.models.flux.folder import WEIGHTS
from dit360_core.models.flux.schemas import why_no_painter
from dit360_core.models.given import check_numbers, check_parts

_TOLD = ("in_channels", "joint_attention_dim", "attention_head_dim", "axes_dims_rope", "guidance_embeds")
_NEEDED = ("transformer", "vae", "scheduler")


def check_given(pipe: Any) -> None:
    """Raises InputError for a pipeline that is none of FLUX's, that paints no prompts, or whose weights are no weights.

    See :func:`check_numbers`.
    """
    kind = type(pipe).__name__
    check_parts(pipe, _NEEDED, "FluxPipeline")
    config = pipe.transformer.config
    if any(getattr(config, name, None) is None for name in _TOLD):
        raise InputError(
            f"The {kind} has a {type(pipe.transformer).__name__}, which is not a FLUX transformer; give a FluxPipeline."
        )
    latents = getattr(pipe.vae.config, "latent_channels", None)
    why = None if latents is None else why_no_painter(config, int(latents))
    if why:
        raise ModelError(f"The transformer of this {kind} {why}.")
    check_numbers(pipe, WEIGHTS)
