"""What Krea calls the tensors of its transformer: in its own files, and in folders made of them without renaming.

Source: diffusers' ``convert_krea2_transformer_checkpoint_to_diffusers``. Krea keeps the six vectors of a block's
modulation as one, of the shape (6·width,), where diffusers has (6, width).
"""

from __future__ import annotations

import re

_LAYERS = {
    "attn.to_q": "attn.wq", "attn.to_k": "attn.wk", "attn.to_v": "attn.wv", "attn.to_out.0": "attn.wo",
    "attn.to_gate": "attn.gate", "ff.gate": "mlp.gate", "ff.up": "mlp.up", "ff.down": "mlp.down",
    "img_in": "first", "time_embed.linear_1": "tmlp.0", "time_embed.linear_2": "tmlp.2", "time_mod_proj": "tproj.1",
    "txt_in.linear_1": "txtmlp.1", "txt_in.linear_2": "txtmlp.3", "projector": "projector",
    "final_layer.linear": "last.linear",
}  # fmt: skip
_WHOLE = {
    "attn.norm_q.weight": "attn.qknorm.qnorm.scale", "attn.norm_k.weight": "attn.qknorm.knorm.scale",
    "norm1.weight": "prenorm.scale", "norm2.weight": "postnorm.scale", "scale_shift_table": "mod.lin",
    "txt_in.norm.weight": "txtmlp.0.scale", "final_layer.norm.weight": "last.norm.scale",
    "final_layer.scale_shift_table": "last.modulation.lin",
}  # fmt: skip
_BLOCKS = (
    (r"transformer_blocks\.(\d+)\.", "blocks.{}."),
    (r"text_fusion\.layerwise_blocks\.(\d+)\.", "txtfusion.layerwise_blocks.{}."),
    (r"text_fusion\.refiner_blocks\.(\d+)\.", "txtfusion.refiner_blocks.{}."),
    (r"text_fusion\.", "txtfusion."),
)


def original_name(name: str) -> str | None:
    """Krea's name of a tensor that is called ``name`` in diffusers; None if it has none of that name."""
    before = ""
    for pattern, block in _BLOCKS:
        if match := re.match(pattern, name):
            before, name = block.format(*match.groups()), name[match.end() :]
            break
    if whole := _WHOLE.get(name):
        return before + whole
    layer, _, leaf = name.rpartition(".")
    found = _LAYERS.get(layer)
    return None if found is None else f"{before}{found}.{leaf}"
