"""What the trainers of LoRAs call the layers of FLUX, CLIP and T5, and what those are called here.

A name is looked up with its dots as underscores, for half of the trainers write it so. ``docs/loras.md`` has the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dit360_core.models.architecture import Target

CLIP, T5, TRANSFORMER = "text_encoder", "text_encoder_2", "transformer"


# ---------------------------------------------------------------------------------------------------------- prefixes

# What stands before a layer's name says whose it is; the longest that fits counts. lora_te2_ is T5 in the files of
# OneTrainer, and in those of Stable Diffusion XL a second CLIP, whose names are none of T5's.
_PREFIXES: Mapping[str, str | None] = {
    "lora_te1_": CLIP, "lora_te_": CLIP, "text_encoders_clip_l_transformer_": CLIP, "text_encoders_clip_l_": CLIP,
    "clip_l_transformer_": CLIP, "clip_l_": CLIP, "text_encoder_": CLIP, "lora_text_encoder_": CLIP,
    "lycoris_te1_": CLIP,
    "lora_te3_": T5, "lora_te2_": T5, "text_encoders_t5xxl_transformer_": T5, "text_encoders_t5xxl_": T5,
    "t5xxl_transformer_": T5, "t5xxl_": T5, "t5_": T5, "text_encoder_2_": T5, "lora_text_encoder_2_": T5,
    "lora_unet_": TRANSFORMER, "lora_transformer_": TRANSFORMER, "lycoris_unet_": TRANSFORMER,
    "lycoris_transformer_": TRANSFORMER, "lycoris_": TRANSFORMER, "diffusion_model_": TRANSFORMER,
    "model_diffusion_model_": TRANSFORMER, "transformer_": TRANSFORMER, "unet_": TRANSFORMER,
    # Of nobody in particular: the name itself tells.
    "base_model_model_transformer_": TRANSFORMER, "base_model_model_": None, "model_": None, "module_": None, "": None,
}  # fmt: skip
_BY_LENGTH = sorted(_PREFIXES, key=len, reverse=True)

# ------------------------------------------------------------------------------------------------------- transformer

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

# The names of Black Forest Labs (kohya, ComfyUI, AI-toolkit), those of XLabs' processors, and fused ones of diffusers.
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": _QKV, "processor_qkv_lora1": _QKV, "attn_to_qkv": _QKV,
    "txt_attn_qkv": _ADDED_QKV, "processor_qkv_lora2": _ADDED_QKV, "attn_to_added_qkv": _ADDED_QKV,
    "img_attn_proj": ("attn.to_out.0",), "processor_proj_lora1": ("attn.to_out.0",), "attn_to_out": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",), "processor_proj_lora2": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",), "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",), "txt_mlp_2": ("ff_context.net.2",),
    "img_mod_lin": ("norm1.linear",), "txt_mod_lin": ("norm1_context.linear",),
    "img_attn_norm_query_norm": ("attn.norm_q",), "img_attn_norm_key_norm": ("attn.norm_k",),
    "txt_attn_norm_query_norm": ("attn.norm_added_q",), "txt_attn_norm_key_norm": ("attn.norm_added_k",),
}  # fmt: skip
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_QKV, "proj_mlp"), "linear2": ("proj_out",), "modulation_lin": ("norm.linear",),
    "norm_query_norm": ("attn.norm_q",), "norm_key_norm": ("attn.norm_k",),
    "processor_qkv_lora": _QKV, "processor_proj_lora": ("proj_out",), "attn_to_qkv": _QKV,
}  # fmt: skip
_TOP: Mapping[str, str] = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer_linear": "proj_out",
}  # fmt: skip
FINAL_MODULATION = "final_layer_adaLN_modulation_1"
"""Its outputs are shift and scale; those of diffusers' ``norm_out.linear`` are scale and shift."""

# diffusers' own names.
_DOUBLE_OWN = (
    *_QKV, *_ADDED_QKV, "attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj",
    "ff_context.net.2", "norm1.linear", "norm1_context.linear", "attn.norm_q", "attn.norm_k", "attn.norm_added_q",
    "attn.norm_added_k",
)  # fmt: skip
_SINGLE_OWN = (*_QKV, "proj_mlp", "proj_out", "norm.linear", "attn.norm_q", "attn.norm_k")
_TOP_OWN = (*_TOP.values(), "norm_out.linear")

_CLIP_LAYER = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2",
)  # fmt: skip
_CLIP_TOP = ("final_layer_norm", "embeddings.token_embedding", "embeddings.position_embedding")
_T5_LAYER = (
    *(f"layer.0.SelfAttention.{name}" for name in ("q", "k", "v", "o")), "layer.0.layer_norm", "layer.1.layer_norm",
    *(f"layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")),
    "layer.0.SelfAttention.relative_attention_bias",
)  # fmt: skip
_T5_TOP = ("encoder.final_layer_norm", "shared")


def _flat(names: tuple[str, ...]) -> dict[str, str]:
    return {name.replace(".", "_"): name for name in names}


_BLOCKS: Mapping[str, tuple[tuple[str, str, Mapping[str, tuple[str, ...]]], ...]] = {
    # part → (pattern of a block's name, what the block is called here, its layers)
    TRANSFORMER: (
        (r"double_blocks_(\d+)_(.+)", "transformer_blocks.{}.", _DOUBLE),
        (r"single_blocks_(\d+)_(.+)", "single_transformer_blocks.{}.", _SINGLE),
        (
            r"transformer_blocks_(\d+)_(.+)", "transformer_blocks.{}.",
            {**_DOUBLE, **{flat: (name,) for flat, name in _flat(_DOUBLE_OWN).items()}},
        ),
        (
            r"single_transformer_blocks_(\d+)_(.+)", "single_transformer_blocks.{}.",
            {**_SINGLE, **{flat: (name,) for flat, name in _flat(_SINGLE_OWN).items()}},
        ),
    ),
    CLIP: (
        (
            r"(?:text_model_)?encoder_layers_(\d+)_(.+)", "text_model.encoder.layers.{}.",
            {flat: (name,) for flat, name in _flat(_CLIP_LAYER).items()},
        ),
    ),
    T5: (
        (
            r"encoder_block_(\d+)_(.+)", "encoder.block.{}.",
            {flat: (name,) for flat, name in _flat(_T5_LAYER).items()},
        ),
    ),
}  # fmt: skip
_WHOLE: Mapping[str, Mapping[str, str]] = {
    TRANSFORMER: {**_TOP, **_flat(_TOP_OWN)},
    CLIP: {
        key: f"text_model.{name}"
        for flat, name in _flat(_CLIP_TOP).items()
        for key in (flat, f"text_model_{flat}")
    },
    T5: _flat(_T5_TOP),
}  # fmt: skip


def find(name: str) -> Target | None:
    """The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of FLUX's."""
    flat = name.replace(".", "_")
    # Old adapters of diffusers name the attention's processor, and the layer with _lora at its end.
    flat = re.sub(r"_attn_processor_(\w+?)_lora$", r"_attn_\1", flat)
    for prefix in _BY_LENGTH:
        if flat.startswith(prefix):
            part = _PREFIXES[prefix]
            for each in (part,) if part else (TRANSFORMER, CLIP, T5):
                if target := _layer(each, flat.removeprefix(prefix)):
                    return target
    return None


def _layer(part: str, flat: str) -> Target | None:
    flat = flat.removesuffix("_scale") if flat.endswith("_norm_scale") else flat
    if part == TRANSFORMER and flat == FINAL_MODULATION:
        return Target(part=part, modules=("norm_out.linear",), halves_swapped=True)
    if name := _WHOLE[part].get(flat):
        return Target(part=part, modules=(name,))
    for pattern, block, layers in _BLOCKS[part]:
        if (match := re.fullmatch(pattern, flat)) and (names := layers.get(match[2])):
            return Target(part=part, modules=tuple(block.format(int(match[1])) + each for each in names))
    return None
