"""What Black Forest Labs call the tensors of FLUX.2's transformer.

Source: diffusers' ``convert_flux2_transformer_checkpoint_to_diffusers``.
"""

from __future__ import annotations

from dit360_core.models.family import Layers, OriginalBlocks, OriginalNames

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

DOUBLE: Layers = {
    "img_attn.qkv": QKV, "txt_attn.qkv": ADDED_QKV,
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.linear_in",), "img_mlp.2": ("ff.linear_out",),
    "txt_mlp.0": ("ff_context.linear_in",), "txt_mlp.2": ("ff_context.linear_out",),
}  # fmt: skip
DOUBLE_NORMS: Layers = {
    "img_attn.norm.query_norm": ("attn.norm_q",), "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",), "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}  # fmt: skip
# Here, too, one layer makes q, k, v and what goes into the feed-forward part.
SINGLE: Layers = {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)}
SINGLE_NORMS: Layers = {"norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",)}
TOP: Layers = {
    "img_in": ("x_embedder",), "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_guidance_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
    "guidance_in.in_layer": ("time_guidance_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_guidance_embed.guidance_embedder.linear_2",),
    "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
    "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
    "single_stream_modulation.lin": ("single_stream_modulation.linear",),
    "final_layer.linear": ("proj_out",),
}  # fmt: skip
FINAL_MODULATION: Layers = {"final_layer.adaLN_modulation.1": ("norm_out.linear",)}
"""Its outputs are shift and scale there, and here scale and shift."""

ORIGINAL_NAMES = OriginalNames(
    top=TOP,
    swapped=FINAL_MODULATION,
    blocks=(
        OriginalBlocks("double_blocks.{}.", "transformer_blocks.{}.", DOUBLE, DOUBLE_NORMS),
        OriginalBlocks("single_blocks.{}.", "single_transformer_blocks.{}.", SINGLE, SINGLE_NORMS),
    ),
)
