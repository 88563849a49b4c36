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
    ),
    Part(
        name=AUTOENCODER,
        role=Role.AUTOENCODER,
        words="autoencoder",
        short="autoencoder",
        wide_in_fp16=True,
        harmless=(r".*num_batches_tracked",),
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
    ),
)  # fmt: skip
"""In the order in which they are read."""
