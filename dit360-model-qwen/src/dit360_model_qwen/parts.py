"""The parts of a Qwen-Image model: a language model, a transformer and an autoencoder of films."""

from __future__ import annotations

import attrs
from dit360_core.models.family import DENOISER, ONE_FRAME, Part, Role

TEXT = "text_encoder"
LONGEST_PROMPT = 512
"""Tokens of a prompt that are read where nothing is said, as in diffusers' pipelines; nothing is padded."""

PARTS = (
    Part(
        name=DENOISER,
        role=Role.DENOISER,
        words="transformer",
        short="transformer",
        option="transformer",
        blocks=("transformer_blocks",),
        signs=("transformer_blocks.0.img_mod.1.weight",),
        usual_file="qwen_image_2512_fp8_e4m3fn.safetensors",
    ),
    attrs.evolve(ONE_FRAME, usual_file="qwen_image_vae.safetensors"),
    Part(
        name=TEXT,
        role=Role.TEXT,
        words="text encoder",
        short="text encoder",
        option="text",
        blocks=("layers",),
        # Neither what answers in words nor what sees pictures.
        harmless=(r"lm_head\..*", r"(model\.)?visual\..*"),
        # transformers has said where the language model lies in three ways.
        prefixes=("model.", "model.language_model.", "language_model.model."),
        containers=("text_encoders.qwen25_7b.transformer.", "text_encoders.qwen25_7b."),
        signs=tuple(
            f"{before}layers.0.self_attn.q_proj.weight"
            for before in ("", "model.", "model.language_model.", "language_model.model.", "language_model.")
        ),
        usual_file="qwen_2.5_vl_7b_fp8_scaled.safetensors",
    ),
)
"""In the order in which they are read."""
