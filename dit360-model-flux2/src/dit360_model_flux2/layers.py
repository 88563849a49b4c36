"""Which layers of FLUX.2's parts are quantized, and why the others are not."""

from __future__ import annotations

from dit360_core.models.family import DENOISER
from dit360_core.models.running import Policy

_EMBEDDER = "embedder: everything passes through it, and it holds 1 % of the weights"
_SHARED = "modulation of all blocks: its error is every block's"


def policy_of(part: str) -> Policy:
    """What to leave of a part. Only Linear layers are ever touched: no norm, no embedding, no convolution."""
    if part != DENOISER:
        return Policy()
    return Policy(
        left={
            "x_embedder": _EMBEDDER,
            "context_embedder": _EMBEDDER,
            "time_guidance_embed.*": _EMBEDDER,
            "double_stream_modulation_img.linear": _SHARED,
            "double_stream_modulation_txt.linear": _SHARED,
            "single_stream_modulation.linear": _SHARED,
            "norm_out.linear": "final modulation: its error is the picture's",
            "proj_out": "final projection: its error is the picture's",
        }
    )
