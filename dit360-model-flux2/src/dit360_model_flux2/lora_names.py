"""What the trainers of LoRAs call the layers of FLUX.2, and what those are called here.

Sources: diffusers' conversion of Black Forest Labs' files (``convert_flux2_transformer_checkpoint_to_diffusers``) and
of LoRAs (``_convert_non_diffusers_flux2_lora_to_diffusers``, ``_convert_kohya_flux2_lora_to_diffusers``). For a LoRA it
leaves the halves of the final modulation as they are, which it swaps in the weights that the LoRA was trained on; here
they are swapped in both.
"""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.family import Blocks, LayerNames, PartNames, flat, same

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

# The names of Black Forest Labs (kohya, ComfyUI, AI-toolkit), and fused ones of diffusers.
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": _QKV, "attn_to_qkv": _QKV, "txt_attn_qkv": _ADDED_QKV, "attn_to_added_qkv": _ADDED_QKV,
    "img_attn_proj": ("attn.to_out.0",), "attn_to_out": ("attn.to_out.0",), "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.linear_in",), "img_mlp_2": ("ff.linear_out",),
    "txt_mlp_0": ("ff_context.linear_in",), "txt_mlp_2": ("ff_context.linear_out",),
    "img_attn_norm_query_norm": ("attn.norm_q",), "img_attn_norm_key_norm": ("attn.norm_k",),
    "txt_attn_norm_query_norm": ("attn.norm_added_q",), "txt_attn_norm_key_norm": ("attn.norm_added_k",),
}  # fmt: skip
# Here, too, one layer makes q, k, v and what goes into the feed-forward part.
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",),
    "norm_query_norm": ("attn.norm_q",), "norm_key_norm": ("attn.norm_k",),
}  # fmt: skip
_TOP: Mapping[str, str] = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in_in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in_in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img_lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt_lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation_lin": "single_stream_modulation.linear",
    "final_layer_linear": "proj_out",
}  # fmt: skip

# diffusers' own names.
_DOUBLE_OWN = (
    *_QKV, *_ADDED_QKV, "attn.to_out.0", "attn.to_add_out", "ff.linear_in", "ff.linear_out", "ff_context.linear_in",
    "ff_context.linear_out", "attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k",
)  # fmt: skip
_SINGLE_OWN = ("attn.to_qkv_mlp_proj", "attn.to_out", "attn.norm_q", "attn.norm_k")
_TOP_OWN = (*_TOP.values(), "norm_out.linear")

_TRANSFORMER = PartNames(
    whole={**_TOP, **flat(_TOP_OWN)},
    # Its outputs are shift and scale, and here scale and shift.
    swapped={"final_layer_adaLN_modulation_1": "norm_out.linear"},
    blocks=(
        Blocks(pattern=r"double_blocks_(\d+)_(.+)", here="transformer_blocks.{}.", layers=_DOUBLE),
        Blocks(pattern=r"single_blocks_(\d+)_(.+)", here="single_transformer_blocks.{}.", layers=_SINGLE),
        Blocks(
            # Some files have lost the beginning of the name, which diffusers reads as well.
            pattern=r"(?:tran)?sformer_blocks_(\d+)_(.+)",
            here="transformer_blocks.{}.",
            layers={**_DOUBLE, **same(_DOUBLE_OWN)},
        ),
        Blocks(
            pattern=r"single_transformer_blocks_(\d+)_(.+)",
            here="single_transformer_blocks.{}.",
            layers={**_SINGLE, **same(_SINGLE_OWN)},
        ),
    ),
)

find = LayerNames(_TRANSFORMER).find
"""The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of FLUX.2's."""
