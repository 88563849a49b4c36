"""What Black Forest Labs call the tensors of FLUX.1's transformer."""

from __future__ import annotations

from dit360_core.models.original_names import Layers, OriginalBlocks, OriginalNames

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

DOUBLE: Layers = {
    "img_attn.qkv": QKV, "txt_attn.qkv": ADDED_QKV,
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",),
}  # fmt: skip
DOUBLE_NORMS: Layers = {
    "img_attn.norm.query_norm": ("attn.norm_q",), "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",), "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}  # fmt: skip
SINGLE: Layers = {
    "linear1": (*QKV, "proj_mlp"), "linear2": ("proj_out",), "modulation.lin": ("norm.linear",),
}  # fmt: skip
SINGLE_NORMS: Layers = {"norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",)}
TOP: Layers = {
    "img_in": ("x_embedder",), "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}  # fmt: skip
FINAL_MODULATION: Layers = {"final_layer.adaLN_modulation.1": ("norm_out.linear",)}
"""Its outputs are shift and scale there; those of diffusers' layer are scale and shift."""

ORIGINAL_NAMES = OriginalNames(
    top=TOP,
    swapped=FINAL_MODULATION,
    blocks=(
        OriginalBlocks("double_blocks.{}.", "transformer_blocks.{}.", DOUBLE, DOUBLE_NORMS),
        OriginalBlocks("single_blocks.{}.", "single_transformer_blocks.{}.", SINGLE, SINGLE_NORMS),
    ),
)
