"""Which Qwen-Image a file holds, by the shapes of its transformer's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import FromShapes, blocks_in

_PATCH = 2


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> FromShapes | None:
    """None for anything else. Qwen-Image and Qwen-Image-2512 have the same shapes, and are run alike."""
    first, text, last = (shapes.get(f"{name}.weight", ()) for name in ("img_in", "txt_in", "proj_out"))
    head = shapes.get("transformer_blocks.0.attn.norm_q.weight", ())
    if not (len(first) == len(text) == len(last) == 2 and head) or first[0] % head[0]:
        return None
    config = {
        "in_channels": first[1],
        "out_channels": last[0] // _PATCH**2,
        "num_layers": blocks_in(shapes, r"transformer_blocks"),
        "attention_head_dim": head[0],
        "num_attention_heads": first[0] // head[0],
        "joint_attention_dim": text[1],
    }
    return FromShapes(transformer=config)
