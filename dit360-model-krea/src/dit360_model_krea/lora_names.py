"""What the trainers of LoRAs call the layers of Krea 2, and what those are called here.

Sources: diffusers' conversion of Krea's own files (``convert_krea2_transformer_checkpoint_to_diffusers``) and of LoRAs
(``_convert_non_diffusers_krea2_lora_to_diffusers``). Krea's last layer has two matrices more, ``last.up`` and
``last.down``, which diffusers leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import Blocks, LayerNames, PartNames, flat, same

# Krea's own names (AI-toolkit, ComfyUI, kohya), in blocks of both kinds.
_BLOCK: Mapping[str, tuple[str, ...]] = {
    "attn_wq": ("attn.to_q",), "attn_wk": ("attn.to_k",), "attn_wv": ("attn.to_v",), "attn_wo": ("attn.to_out.0",),
    "attn_gate": ("attn.to_gate",), "attn_qknorm_qnorm": ("attn.norm_q",), "attn_qknorm_knorm": ("attn.norm_k",),
    "mlp_gate": ("ff.gate",), "mlp_up": ("ff.up",), "mlp_down": ("ff.down",),
    "prenorm": ("norm1",), "postnorm": ("norm2",),
}  # fmt: skip
_TOP: Mapping[str, str] = {
    "first": "img_in", "tmlp_0": "time_embed.linear_1", "tmlp_2": "time_embed.linear_2", "tproj_1": "time_mod_proj",
    "txtmlp_0": "txt_in.norm", "txtmlp_1": "txt_in.linear_1", "txtmlp_3": "txt_in.linear_2",
    "txtfusion_projector": "text_fusion.projector", "last_linear": "final_layer.linear",
    "last_norm": "final_layer.norm",
}  # fmt: skip

# diffusers' own names.
_BLOCK_OWN = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_gate", "attn.to_out.0", "attn.norm_q", "attn.norm_k", "ff.gate",
    "ff.up", "ff.down", "norm1", "norm2",
)  # fmt: skip
_EITHER = {**_BLOCK, **same(_BLOCK_OWN), "attn_to_out": ("attn.to_out.0",)}

_TRANSFORMER = PartNames(
    whole={**_TOP, **flat(_TOP.values())},
    blocks=(
        Blocks(pattern=r"(?:transformer_)?blocks_(\d+)_(.+)", here="transformer_blocks.{}.", layers=_EITHER),
        *(
            Blocks(pattern=rf"te?xt_?fusion_{kind}_(\d+)_(.+)", here=f"text_fusion.{kind}.{{}}.", layers=_EITHER)
            for kind in ("layerwise_blocks", "refiner_blocks")
        ),
    ),
)

find = LayerNames(_TRANSFORMER).find
"""The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of Krea 2's."""
