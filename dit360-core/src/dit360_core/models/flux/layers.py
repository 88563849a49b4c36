"""Which layers of FLUX's parts are quantized, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dit360_core.models.weights.conversion import Policy, Selection, check_patterns, linear_layers, select_layers

_EMBEDDER = "embedder: everything passes through it, and it holds 0.4 % of the weights"

PARTS = {"transformer": "transformer", "t5": "text_encoder_2"}
"""Option → name in the model's folder."""


def parts_of(option: str) -> tuple[str, ...]:
    """The folders that ``quantization_parts`` means."""
    return tuple(PARTS.values()) if option == "both" else (PARTS[option],)


def selections(modules: Mapping[str, torch.nn.Module], skip: str, *, checked: bool = True) -> dict[str, Selection]:
    """What to quantize of each part. skip: as in ``quantization_skip``. checked: refuse a pattern that is no layer's.

    Raises InputError for a pattern that is no layer's in any of them, or if nothing of one would be quantized.
    """
    if checked:
        check_patterns(skip, [name for module in modules.values() for name in linear_layers(module)])
    return {part: select_layers(module, policy_of(part), skip) for part, module in modules.items()}


def policy_of(part: str) -> Policy:
    """What to leave of a part. Only Linear layers are ever touched: no norm, no embedding, no convolution."""
    if part == "transformer":
        return Policy(
            left={
                "x_embedder": _EMBEDDER,
                "context_embedder": _EMBEDDER,
                "time_text_embed.*": _EMBEDDER,
                "norm_out.linear": "final modulation: its error is the picture's",
                "proj_out": "final projection: its error is the picture's",
            },
            one_token=(
                "transformer_blocks.*.norm1.linear",
                "transformer_blocks.*.norm1_context.linear",
                "single_transformer_blocks.*.norm.linear",
            ),
        )
    return Policy()
