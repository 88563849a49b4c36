"""The parts of a FLUX.2 model: a language model, a transformer and an autoencoder."""

from __future__ import annotations

from dit360_core.models.family import AUTOENCODER, DENOISER, Part, Role

TITLE = "FLUX.2"
KLEIN, DEV = "Flux2KleinPipeline", "Flux2Pipeline"
PIPELINES = (KLEIN, DEV)
TRANSFORMERS = ("Flux2Transformer2DModel",)
TEXT = "text_encoder"
LONGEST_PROMPT = 512
"""Tokens that a prompt is padded to, and the most."""

PARTS = (
    Part(
        name=DENOISER,
        role=Role.DENOISER,
        words="transformer",
        short="transformer",
        option="transformer",
        blocks=("transformer_blocks", "single_transformer_blocks"),
        signs=("double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight"),
        usual_file="flux-2-klein-4b-fp8.safetensors",
    ),
    Part(
        name=AUTOENCODER,
        role=Role.AUTOENCODER,
        words="autoencoder",
        short="autoencoder",
        wide_in_fp16=True,
        harmless=(r".*num_batches_tracked",),
        signs=("bn.running_mean",),
        usual_file="flux2-vae.safetensors",
    ),
    Part(
        name=TEXT,
        role=Role.TEXT,
        words="text encoder",
        short="text encoder",
        option="text",
        blocks=("layers",),
        # Neither what answers in words or sees pictures, nor layers behind the last that is read.
        harmless=(
            r"lm_head\..*", r"(.*\.)?(vision_tower|multi_modal_projector)\..*", r"(.*\.)?norm\.weight",
            r"(model\.|language_model\.)*layers\..*",
        ),
        prefixes=("model.", "model.language_model.", "language_model.model."),
        containers=tuple(
            f"text_encoders.{reader}.transformer." for reader in ("qwen3_4b", "qwen3_8b", "mistral3_24b")
        ),
        signs=tuple(
            f"{before}layers.0.self_attn.q_proj.weight"
            for before in ("", "model.", "model.language_model.", "language_model.model.", "language_model.")
        ),
        usual_file="qwen_3_4b.safetensors",
    ),
)  # fmt: skip
"""In the order in which they are read."""
