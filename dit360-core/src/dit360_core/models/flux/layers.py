"""Which layers of FLUX's parts are quantized, and why the others are not."""

from __future__ import annotations

from dit360_core.models.weights.selection import Policy

_EMBEDDER = "embedder: everything passes through it, and it holds 0.4 % of the weights"


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
