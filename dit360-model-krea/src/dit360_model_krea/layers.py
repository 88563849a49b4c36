"""Which layers of Krea 2's parts are quantized, and why the others are not."""

from __future__ import annotations

from dit360_core.models.family import DENOISER
from dit360_core.models.running import Policy

_EMBEDDER = "embedder: everything passes through it, and it holds 0.8 % of the weights"


def policy_of(part: str) -> Policy:
    """What to leave of a part. Only Linear layers are ever touched: no norm, no embedding, no convolution.

    The blocks that fuse the layers of the text encoder (``text_fusion``) are quantized as all blocks are: they hold
    2.7 % of the weights, half a gigabyte in four bits, and each adds to what passes by it.
    """
    if part != DENOISER:
        return Policy()
    return Policy(
        left={
            "img_in": _EMBEDDER,
            "txt_in.*": _EMBEDDER,
            "time_embed.*": _EMBEDDER,
            "time_mod_proj": "modulation of all blocks: its error is every block's",
            "text_fusion.projector": "weights of the text encoder's layers: a number for each",
            "final_layer.linear": "final projection: its error is the picture's",
        }
    )
