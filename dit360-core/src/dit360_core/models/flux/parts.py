"""The parts of a FLUX.1 model: two text encoders, a transformer and an autoencoder."""

from __future__ import annotations

from dit360_core.models.architecture import AUTOENCODER, DENOISER, Part, Role
from dit360_core.plugins.builtin.architectures import dit360_architectures

T5 = "text_encoder_2"
PARTS = (
    Part(
        name=DENOISER,
        role=Role.DENOISER,
        words="transformer",
        short="transformer",
        option="transformer",
        blocks=("transformer_blocks", "single_transformer_blocks"),
        signs=("double_blocks.0.img_mod.lin.weight", "single_transformer_blocks.0.norm.linear.weight"),
        usual_file="flux1-dev.safetensors",
    ),
    Part(
        name=AUTOENCODER,
        role=Role.AUTOENCODER,
        words="autoencoder",
        short="autoencoder",
        wide_in_fp16=True,
        signs=("decoder.mid.block_1.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight"),
        usual_file="ae.safetensors",
    ),
    Part(
        name="text_encoder",
        role=Role.TEXT,
        words="CLIP encoder",
        short="CLIP",
        small=True,
        harmless=(
            r".*position_ids", r"(.*\.)?text_projection(\.weight)?", r"logit_scale", r"vision_model\..*",
            r"visual_projection\..*",
        ),
        prefixes=("text_model.",),
        containers=("text_encoders.clip_l.transformer.", "text_encoders.clip_l.", "clip_l.transformer."),
        signs=tuple(
            f"{prefix}encoder.layers.0.self_attn.q_proj.weight" for prefix in ("text_model.", "")
        ),
        usual_file="clip_l.safetensors",
    ),
    Part(
        name=T5,
        role=Role.TEXT,
        words="T5 encoder",
        short="T5",
        option="text",
        blocks=("encoder.block",),
        streamed=("encoder",),
        harmless=(
            r"decoder\..*", r"lm_head\..*", r"shared\.weight", r"encoder\.embed_tokens\.weight", r"spiece_model",
            r"logit_scale",
        ),
        containers=("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", "t5xxl.transformer."),
        signs=("encoder.block.0.layer.0.SelfAttention.q.weight",),
        usual_file="t5xxl_fp16.safetensors",
    ),
)  # fmt: skip
"""In the order in which they are read."""

TOKENIZERS = ("tokenizer", "tokenizer_2")
PIPELINES = tuple(next(iter(dit360_architectures())).pipelines)
"""That paint from a prompt, or fill a part of a picture, with the parts of a FluxPipeline: as the offer has them."""

REPLACEABLE = {"transformer": DENOISER, "vae": AUTOENCODER, "clip": "text_encoder", "t5": T5}
"""Option → the part of a model that it replaces."""

USUAL = {"num_attention_heads": 24, "attention_head_dim": 128, "guidance_embeds": False}
"""What diffusers takes where a transformer's configuration says nothing."""
