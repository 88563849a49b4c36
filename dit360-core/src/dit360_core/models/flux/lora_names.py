"""What the trainers of LoRAs call the layers of FLUX, CLIP and T5, and what those are called here.

How a name is looked up: :mod:`dit360_core.models.lora.naming`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.models.flux.original_names import (
    ADDED_QKV,
    DOUBLE,
    DOUBLE_NORMS,
    FINAL_MODULATION,
    QKV,
    SINGLE,
    SINGLE_NORMS,
    TOP,
)
from dit360_core.models.lora.naming import Blocks, LayerNames, PartNames, flat, looked_up, same

# ---------------------------------------------------------------------------------------------------------- prefixes

# lora_te2_ is T5 in the files of OneTrainer, and in those of Stable Diffusion XL a second CLIP, whose names are none of
# T5's.
_CLIP_PREFIXES = (
    "lora_te1_", "lora_te_", "text_encoders_clip_l_transformer_", "text_encoders_clip_l_", "clip_l_transformer_",
    "clip_l_", "text_encoder_", "lora_text_encoder_", "lycoris_te1_",
)  # fmt: skip
_T5_PREFIXES = (
    "lora_te3_", "lora_te2_", "text_encoders_t5xxl_transformer_", "text_encoders_t5xxl_", "t5xxl_transformer_",
    "t5xxl_", "t5_", "text_encoder_2_", "lora_text_encoder_2_",
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------- transformer

# The names of Black Forest Labs (kohya, ComfyUI, AI-toolkit), those of XLabs' processors, and fused ones of diffusers.
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    **looked_up(DOUBLE), **looked_up(DOUBLE_NORMS),
    "processor_qkv_lora1": QKV, "attn_to_qkv": QKV, "processor_qkv_lora2": ADDED_QKV, "attn_to_added_qkv": ADDED_QKV,
    "processor_proj_lora1": ("attn.to_out.0",), "attn_to_out": ("attn.to_out.0",),
    "processor_proj_lora2": ("attn.to_add_out",),
}  # fmt: skip
_SINGLE: Mapping[str, tuple[str, ...]] = {
    **looked_up(SINGLE), **looked_up(SINGLE_NORMS),
    "processor_qkv_lora": QKV, "processor_proj_lora": ("proj_out",), "attn_to_qkv": QKV,
}  # fmt: skip
_TOP = {name: here for name, (here,) in looked_up(TOP).items()}

# diffusers' own names.
_DOUBLE_OWN = (
    *QKV, *ADDED_QKV, "attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj",
    "ff_context.net.2", "norm1.linear", "norm1_context.linear", "attn.norm_q", "attn.norm_k", "attn.norm_added_q",
    "attn.norm_added_k",
)  # fmt: skip
_SINGLE_OWN = (*QKV, "proj_mlp", "proj_out", "norm.linear", "attn.norm_q", "attn.norm_k")
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


_TRANSFORMER = PartNames(
    whole={**_TOP, **flat(_TOP_OWN)},
    swapped={name: here for name, (here,) in looked_up(FINAL_MODULATION).items()},
    blocks=(
        Blocks(pattern=r"double_blocks_(\d+)_(.+)", here="transformer_blocks.{}.", layers=_DOUBLE),
        Blocks(pattern=r"single_blocks_(\d+)_(.+)", here="single_transformer_blocks.{}.", layers=_SINGLE),
        Blocks(
            pattern=r"transformer_blocks_(\d+)_(.+)",
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
_CLIP = PartNames(
    part="text_encoder",
    prefixes=_CLIP_PREFIXES,
    whole={
        key: f"text_model.{name}" for looked_up, name in flat(_CLIP_TOP).items()
        for key in (looked_up, f"text_model_{looked_up}")
    },
    blocks=(
        Blocks(
            pattern=r"(?:text_model_)?encoder_layers_(\d+)_(.+)",
            here="text_model.encoder.layers.{}.",
            layers=same(_CLIP_LAYER),
        ),
    ),
)  # fmt: skip
_T5 = PartNames(
    part="text_encoder_2",
    prefixes=_T5_PREFIXES,
    whole=flat(_T5_TOP),
    blocks=(Blocks(pattern=r"encoder_block_(\d+)_(.+)", here="encoder.block.{}.", layers=same(_T5_LAYER)),),
)

find = LayerNames(_TRANSFORMER, _CLIP, _T5).find
"""The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of FLUX's."""
