"""Folders of Qwen-Image, as diffusers writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.models.family import (
    AUTOENCODER,
    DENOISER,
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
    odd_language_model,
    odd_scheduler,
    one_frame_channels,
    one_frame_kind,
    text_config_of,
    whole,
)
from dit360_core.plugins import ModelError

from dit360_model_qwen.parts import PARTS, TEXT
from dit360_model_qwen.pipelines import NEIGHBOURS, PIPELINES, TITLE, TRANSFORMERS

TRANSFORMER = Schema(
    {
        "patch_size": whole(2, 2),
        "in_channels": whole(4, 4096),
        "out_channels": whole(1, 1024).or_none(),
        "num_layers": whole(1, 1000),
        "attention_head_dim": whole(2, 1024),
        "num_attention_heads": whole(1, 1024),
        "joint_attention_dim": whole(1, 65536),
        "guidance_embeds": FLAG,
        "axes_dims_rope": list_of(whole(2, 1024), 3, 3),
        "zero_cond_t": FLAG,
        "use_additional_t_cond": FLAG,
        "use_layer3d_rope": FLAG,
    },
    WRITTEN,
)
USUAL: Mapping[str, Any] = {
    "in_channels": 64, "out_channels": 16, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 3584, "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
"""What diffusers takes where a transformer's configuration says nothing."""
_OTHER_MODELS = {
    "guidance_embeds": "a distilled model that is given guidance as a number",
    "zero_cond_t": "a model that changes pictures (Qwen-Image-Edit-2511)",
    "use_additional_t_cond": "a model that takes pictures apart into layers (Qwen-Image-Layered)",
    "use_layer3d_rope": "a model that takes pictures apart into layers (Qwen-Image-Layered)",
}
"""Switches of a transformer → what it is then the transformer of; none of them paints from a prompt alone."""
_SECTIONS = [16, 24, 24]
"""Of the text encoder's positions, where nothing is said."""


def usual(config: Mapping[str, Any], key: str) -> Any:
    """What a transformer's configuration says, or diffusers' default."""
    return config.get(key, USUAL[key])


def not_for_prompts(config: Mapping[str, Any]) -> str | None:
    """Why a transformer does not paint from a prompt alone, in half a sentence; None if it does."""
    for key, what in _OTHER_MODELS.items():
        if config.get(key):
            return f"{key} is set, as in {what}, and dit360 runs those that paint from a prompt"
    return None


def _odd_transformer(config: Mapping[str, Any]) -> str | None:
    head_dim, axes = usual(config, "attention_head_dim"), usual(config, "axes_dims_rope")
    if any(axis % 2 for axis in axes) or sum(axes) != head_dim:
        return f"axes_dims_rope is {axes} and attention_head_dim {head_dim} (they are even and add up to it)"
    if not WIDTH.holds(width := head_dim * usual(config, "num_attention_heads")):
        return f"num_attention_heads times attention_head_dim is {width} ({WIDTH.says})"
    return None


def _odd_reader(config: Mapping[str, Any]) -> str | None:
    if odd := odd_language_model(config):
        return odd
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    sections = rope.get("mrope_section", _SECTIONS)
    half = (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) // 2
    if not isinstance(sections, list) or sum(sections) != half:
        return f"mrope_section is {sections} (it adds up to {half}, half the channels of a head)"
    return None


def _together(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError for parts that are right one by one and of different models."""
    transformer = configs[DENOISER]
    if why := not_for_prompts(transformer):
        raise ModelError(f"{folder / DENOISER / 'config.json'} says that {why}; give a {PIPELINES[0]}.")
    taken, made = usual(transformer, "in_channels"), 4 * one_frame_channels(configs[AUTOENCODER])
    given = 4 * (usual(transformer, "out_channels") or taken)
    if taken != made or given != made:
        raise ModelError(
            f"{folder / DENOISER} takes {taken} channels and makes {given}, and a picture's latents have {made} (4 "
            "times the autoencoder's); give the parts of one text-to-image model."
        )
    wanted, width = usual(transformer, "joint_attention_dim"), configs[TEXT]["hidden_size"]
    if wanted != width:
        raise ModelError(
            f"{folder / TEXT} has {width} channels, and the transformer takes {wanted}; download the whole of one "
            "model."
        )


TOKENIZER = TokenizerKind(
    title=TITLE, classes=("Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
)
FOLDER = ModelFolder(
    title=TITLE,
    pipelines=PIPELINES,
    parts=PARTS,
    kinds={
        DENOISER: PartKind(classes=TRANSFORMERS, schema=TRANSFORMER, odd=_odd_transformer),
        AUTOENCODER: one_frame_kind("AutoencoderKLQwenImage"),
        TEXT: PartKind(
            classes=("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel", "Qwen2_5_VLTextModel"),
            types=("qwen2_5_vl", "qwen2_5_vl_text"),
            schema=LANGUAGE_MODEL,
            config_of=text_config_of,
            odd=_odd_reader,
        ),
        "scheduler": PartKind(schema=SCHEDULER, odd=odd_scheduler),
    },
    tokenizers={"tokenizer": TOKENIZER},
    together=_together,
    neighbours=NEIGHBOURS,
)
