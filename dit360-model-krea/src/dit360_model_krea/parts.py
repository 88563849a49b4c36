"""The parts of a Krea 2 model: a language model, a transformer and an autoencoder."""

from __future__ import annotations

import attrs
from dit360_core.models.family import DENOISER, ONE_FRAME, Part, Role

TITLE = "Krea 2"
PIPELINE = "Krea2Pipeline"
TRANSFORMERS = ("Krea2Transformer2DModel",)
TEXT = "text_encoder"
UNUSED = (r"last\.up\.weight", r"last\.down\.weight")
"""Patterns of tensors of Krea's own files that diffusers has no place for."""
LONGEST_PROMPT = 512
"""Tokens of a prompt that the transformer sees at most, with those behind it (:data:`SUFFIX_TOKENS`)."""
PREFIX_TOKENS, SUFFIX_TOKENS = 34, 5
"""Tokens that stand before every prompt, which the text encoder alone reads, and behind it. Both as diffusers has
them."""

PARTS = (
    Part(
        name=DENOISER,
        role=Role.DENOISER,
        words="transformer",
        short="transformer",
        option="transformer",
        blocks=("transformer_blocks",),
        harmless=UNUSED,
        signs=("blocks.0.attn.wq.weight", "transformer_blocks.0.attn.to_gate.weight"),
        usual_file="krea2_turbo_fp8.safetensors",
    ),
    attrs.evolve(ONE_FRAME, usual_file="qwen_image_vae.safetensors"),
    Part(
        name=TEXT,
        role=Role.TEXT,
        words="text encoder",
        short="text encoder",
        option="text",
        blocks=("layers",),
        # Neither what answers in words or sees pictures, nor layers behind the last that is read.
        harmless=(
            r"lm_head\..*", r"(model\.)?visual\..*", r"(.*\.)?norm\.weight", r"(model\.|language_model\.)*layers\..*",
        ),
        prefixes=("model.", "language_model.", "model.language_model.", "language_model.model."),
        containers=("text_encoders.qwen3vl_4b.transformer.", "text_encoders.qwen3vl_4b."),
        signs=tuple(
            f"{before}layers.0.self_attn.q_proj.weight"
            for before in ("", "model.", "model.language_model.", "language_model.model.", "language_model.")
        ),
        usual_file="qwen3vl_4b.safetensors",
    ),
)  # fmt: skip
"""In the order in which they are read."""
