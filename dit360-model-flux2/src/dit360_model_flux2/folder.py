"""Folders of FLUX.2 [klein] and of FLUX.2, as diffusers writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.models.family import (
    AUTOENCODER,
    DENOISER,
    EPSILON,
    FLAG,
    LANGUAGE_MODEL,
    SCHEDULER,
    WIDTH,
    WRITTEN,
    ModelFolder,
    PartKind,
    Schema,
    TokenizerKind,
    list_of,
    number,
    odd_language_model,
    odd_scheduler,
    one_of,
    text_config_of,
    whole,
)
from dit360_core.plugins import ModelError

from dit360_model_flux2.parts import DEV, KLEIN, PARTS, TEXT, TITLE, TRANSFORMERS

TRANSFORMER = Schema(
    {
        "patch_size": whole(1, 1),
        "in_channels": whole(4, 4096),
        "out_channels": whole(4, 4096).or_none(),
        "num_layers": whole(0, 1000),
        "num_single_layers": whole(0, 1000),
        "attention_head_dim": whole(2, 1024),
        "num_attention_heads": whole(1, 1024),
        "joint_attention_dim": whole(1, 65536),
        "timestep_guidance_channels": whole(2, 8192),
        "mlp_ratio": number(0.1, 100),
        "axes_dims_rope": list_of(whole(2, 1024), 4, 4),
        "rope_theta": number(1, 1e12),
        "eps": EPSILON,
        "guidance_embeds": FLAG,
    },
    WRITTEN,
)
VAE = Schema(
    {
        "in_channels": whole(3, 3),
        "out_channels": whole(3, 3),
        "down_block_types": list_of(one_of("DownEncoderBlock2D"), 1, 16),
        "up_block_types": list_of(one_of("UpDecoderBlock2D"), 1, 16),
        "block_out_channels": list_of(whole(1, 8192), 1, 16),
        "decoder_block_out_channels": list_of(whole(1, 8192), 1, 16).or_none(),
        "layers_per_block": whole(1, 100),
        "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
        "latent_channels": whole(1, 1024),
        "norm_num_groups": whole(1, 8192),
        "sample_size": whole(1, 65536),
        "force_upcast": FLAG,
        "use_quant_conv": FLAG,
        "use_post_quant_conv": FLAG,
        "mid_block_add_attention": FLAG,
        "batch_norm_eps": EPSILON,
        "batch_norm_momentum": number(0, 1),
        "patch_size": list_of(whole(2, 2), 2, 2),
    },
    WRITTEN,
)
USUAL: Mapping[str, Any] = {
    "in_channels": 128, "attention_head_dim": 128, "num_attention_heads": 48, "joint_attention_dim": 15360,
    "guidance_embeds": True, "axes_dims_rope": [32, 32, 32, 32],
}  # fmt: skip
"""What diffusers takes where a transformer's configuration says nothing."""


def usual(config: Mapping[str, Any], key: str) -> Any:
    """What a transformer's configuration says, or diffusers' default."""
    return config.get(key, USUAL[key])


def _odd_transformer(config: Mapping[str, Any]) -> str | None:
    head_dim, axes = usual(config, "attention_head_dim"), usual(config, "axes_dims_rope")
    if any(axis % 2 for axis in axes) or sum(axes) != head_dim:
        return f"axes_dims_rope is {axes} and attention_head_dim {head_dim} (they are even and add up to it)"
    if not WIDTH.holds(width := head_dim * usual(config, "num_attention_heads")):
        return f"num_attention_heads times attention_head_dim is {width} ({WIDTH.says})"
    if not config.get("num_layers", 8) + config.get("num_single_layers", 48):
        return "num_layers and num_single_layers are 0"
    return None


def _odd_vae(config: Mapping[str, Any]) -> str | None:
    groups = config.get("norm_num_groups", 32)
    own = config.get("block_out_channels", [128, 256, 512, 512])
    for name, widths in (
        ("block_out_channels", own), ("decoder_block_out_channels", config.get("decoder_block_out_channels") or own),
    ):  # fmt: skip
        if odd := next((width for width in widths if width % groups), None):
            return f"{name} has {odd} and norm_num_groups is {groups}, which does not divide it"
    if len(own) != 4:
        return f"block_out_channels has {len(own)} entries (four make latents an eighth of the picture)"
    return None


def _together(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError for parts that are right one by one and of different models."""
    transformer = configs[DENOISER]
    taken, made = usual(transformer, "in_channels"), 4 * configs[AUTOENCODER].get("latent_channels", 32)
    given = transformer.get("out_channels") or taken
    if taken != made or given != made:
        raise ModelError(
            f"{folder / DENOISER} takes {taken} channels and makes {given}, and a picture's latents have {made} (4 "
            "times the autoencoder's); give the parts of one text-to-image model."
        )
    wanted, width = usual(transformer, "joint_attention_dim"), configs[TEXT]["hidden_size"]
    if wanted != 3 * width:
        raise ModelError(
            f"{folder / TEXT} has {width} channels, and three of its layers are read, but the transformer takes "
            f"{wanted}; download the whole of one model."
        )


def _folder(pipeline: str, text: PartKind, tokenizer: TokenizerKind) -> ModelFolder:
    return ModelFolder(
        title=TITLE,
        pipelines=(pipeline,),
        parts=PARTS,
        kinds={
            DENOISER: PartKind(classes=TRANSFORMERS, schema=TRANSFORMER, odd=_odd_transformer),
            AUTOENCODER: PartKind(classes=("AutoencoderKLFlux2",), schema=VAE, odd=_odd_vae),
            TEXT: text,
            "scheduler": PartKind(schema=SCHEDULER, odd=odd_scheduler),
        },
        tokenizers={"tokenizer": tokenizer},
        together=_together,
    )


def _reader(classes: tuple[str, ...], types: tuple[str, ...]) -> PartKind:
    return PartKind(
        classes=classes, types=types, schema=LANGUAGE_MODEL, config_of=text_config_of, odd=odd_language_model
    )


KLEIN_TOKENIZER = TokenizerKind(
    title=TITLE, classes=("Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
)
DEV_TOKENIZER = TokenizerKind(
    title=TITLE,
    classes=(
        "PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "LlamaTokenizerFast", "PixtralProcessor",
        "MistralCommonBackend", "AutoProcessor",
    ),
    vocabularies=("tokenizer.json",),
)  # fmt: skip
FOLDERS = {
    KLEIN: _folder(
        KLEIN,
        _reader(("Qwen3ForCausalLM", "Qwen3Model"), ("qwen3",)),
        KLEIN_TOKENIZER,
    ),
    DEV: _folder(
        DEV,
        _reader(("Mistral3ForConditionalGeneration", "Mistral3Model"), ("mistral3", "mistral")),
        DEV_TOKENIZER,
    ),
}
"""Pipeline → how its folders are."""
