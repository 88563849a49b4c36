"""Which layers of Qwen-Image's parts are quantized, and why the others are not."""

from __future__ import annotations

from dit360_core.models.family import DENOISER
from dit360_core.models.running import Policy

_EMBEDDER = "embedder: everything passes through it, and it holds 0.1 % of the weights"


def policy_of(part: str) -> Policy:
    """What to leave of a part. Only Linear layers are ever touched: no norm, no embedding, no convolution."""
    if part != DENOISER:
        return Policy()
    return Policy(
        left={
            "img_in": _EMBEDDER,
            "txt_in": _EMBEDDER,
            "time_text_embed.*": _EMBEDDER,
            "norm_out.linear": "final modulation: its error is the picture's",
            "proj_out": "final projection: its error is the picture's",
        },
        one_token=("transformer_blocks.*.img_mod.1", "transformer_blocks.*.txt_mod.1"),
    )
