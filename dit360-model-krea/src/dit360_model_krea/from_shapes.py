"""Which Krea 2 a file holds, by the shapes of its transformer's tensors and by its name."""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import FromShapes, blocks_in, first_of


def from_shapes(shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
    """None for anything else. Whether it is Turbo no shape tells; its name may."""
    first = first_of(shapes, "first.weight", "img_in.weight")
    head = first_of(shapes, "blocks.0.attn.qknorm.qnorm.scale", "transformer_blocks.0.attn.norm_q.weight")
    keys = first_of(shapes, "blocks.0.attn.wk.weight", "transformer_blocks.0.attn.to_k.weight")
    wide = first_of(shapes, "blocks.0.mlp.gate.weight", "transformer_blocks.0.ff.gate.weight")
    text = first_of(shapes, "txtmlp.1.weight", "txt_in.linear_1.weight")
    if not all(len(shape) == 2 for shape in (first, keys, wide, text)) or not head or first[0] % head[0]:
        return None
    config = {
        "in_channels": first[1],
        "num_layers": blocks_in(shapes, r"(?:transformer_)?blocks"),
        "attention_head_dim": head[0],
        "num_attention_heads": first[0] // head[0],
        "num_key_value_heads": keys[0] // head[0],
        "intermediate_size": wide[0],
        "text_hidden_dim": text[1],
    }
    said = name.lower()
    base = "turbo" not in said and ("raw" in said or "base" in said)
    known = base or "turbo" in said
    note = f"{name} is taken for Krea 2 Turbo, for 8 steps without guidance; a base model has raw or base in its name"
    return FromShapes(transformer=config, index={"is_distilled": not base}, notes=() if known else (note,))
