"""Which FLUX.2 a file holds, by the shapes of its transformer's tensors and by its name."""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import FromShapes, blocks_in, first_of

from dit360_model_flux2.parts import DEV, KLEIN


def from_shapes(shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
    """None for anything else. Whether a klein is distilled no shape tells; its name may."""
    first = first_of(shapes, "img_in.weight", "x_embedder.weight")
    text = first_of(shapes, "txt_in.weight", "context_embedder.weight")
    head = first_of(shapes, "double_blocks.0.img_attn.norm.query_norm.scale", "transformer_blocks.0.attn.norm_q.weight")
    wide = first_of(shapes, "double_blocks.0.img_mlp.2.weight", "transformer_blocks.0.ff.linear_out.weight")
    time = first_of(shapes, "time_in.in_layer.weight", "time_guidance_embed.timestep_embedder.linear_1.weight")
    if not all(len(shape) == 2 for shape in (first, text, wide, time)) or not head or first[0] % head[0]:
        return None
    guided = any(key.startswith(("guidance_in.", "time_guidance_embed.guidance_embedder.")) for key in shapes)
    config = {
        "in_channels": first[1],
        "num_layers": blocks_in(shapes, r"(?:double|transformer)_blocks"),
        "num_single_layers": blocks_in(shapes, r"single(?:_transformer)?_blocks"),
        "attention_head_dim": head[0],
        "num_attention_heads": first[0] // head[0],
        "joint_attention_dim": text[1],
        "timestep_guidance_channels": time[1],
        "mlp_ratio": wide[1] / wide[0],
        "guidance_embeds": guided,
    }
    if guided:
        return FromShapes(transformer=config, index={"_class_name": DEV, "is_distilled": False})
    base = "base" in name.lower()
    known = base or "distill" in name.lower()
    note = f"{name} is taken for a distilled klein, for 4 steps without guidance; a base model has base in its name"
    return FromShapes(
        transformer=config, index={"_class_name": KLEIN, "is_distilled": not base}, notes=() if known else (note,)
    )
