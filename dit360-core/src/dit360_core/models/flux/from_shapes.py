"""Which FLUX.1 a file holds, by the shapes of its transformer's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.models.architecture import FromShapes
from dit360_core.models.shapes_told import blocks_in, first_of

Shapes = Mapping[str, tuple[int, ...]]
_HEAD = 128
"""Channels of a head in every FLUX.1, as far as the rotation of its positions tells."""
_AXES = (16, 56, 56)


def from_shapes(shapes: Shapes) -> FromShapes | None:
    """FLUX.1-dev and -schnell, Fill, and what has more or fewer blocks; None for anything else."""
    first = first_of(shapes, "img_in.weight", "x_embedder.weight")
    text = first_of(shapes, "txt_in.weight", "context_embedder.weight")
    pooled = first_of(shapes, "vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight")
    last = first_of(shapes, "final_layer.linear.weight", "proj_out.weight")
    head = first_of(shapes, "double_blocks.0.img_attn.norm.query_norm.scale", "transformer_blocks.0.attn.norm_q.weight")
    if not all(len(shape) == 2 for shape in (first, text, pooled, last)) or not head or first[0] % head[0]:
        return None
    width, channels = head[0], first[0]
    guided = any(name.startswith(("guidance_in.", "time_text_embed.guidance_embedder.")) for name in shapes)
    config: dict[str, Any] = {
        "in_channels": first[1],
        "out_channels": last[0],
        "num_layers": blocks_in(shapes, r"(?:double|transformer)_blocks"),
        "num_single_layers": blocks_in(shapes, r"single(?:_transformer)?_blocks"),
        "attention_head_dim": width,
        "num_attention_heads": channels // width,
        "joint_attention_dim": text[1],
        "pooled_projection_dim": pooled[1],
        "guidance_embeds": guided,
    }
    if width == _HEAD:
        config["axes_dims_rope"] = list(_AXES)
    # FLUX.1-schnell, which has no guidance, was distilled without a shift.
    scheduler = {} if guided else {"use_dynamic_shifting": False, "shift": 1.0}
    return FromShapes(transformer=config, scheduler=scheduler)
