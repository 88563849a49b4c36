"""Folders of Krea 2, as diffusers writes them."""

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
    index_of,
    list_of,
    number,
    odd_language_model,
    odd_scheduler,
    one_frame_channels,
    one_frame_kind,
    text_config_of,
    whole,
)
from dit360_core.plugins import ModelError

from dit360_model_krea.parts import PARTS, PIPELINE, TEXT, TITLE, TRANSFORMERS

TRANSFORMER = Schema(
    {
        "in_channels": whole(4, 4096),
        "num_layers": whole(1, 1000),
        "attention_head_dim": whole(2, 1024),
        "num_attention_heads": whole(1, 1024),
        "num_key_value_heads": whole(1, 1024),
        "intermediate_size": whole(1, 2**20),
        "timestep_embed_dim": whole(2, 8192),
        "text_hidden_dim": WIDTH,
        "num_text_layers": whole(1, 1000),
        "text_num_attention_heads": whole(1, 1024),
        "text_num_key_value_heads": whole(1, 1024),
        "text_intermediate_size": whole(1, 2**20),
        "num_layerwise_text_blocks": whole(0, 1000),
        "num_refiner_text_blocks": whole(0, 1000),
        "axes_dims_rope": list_of(whole(2, 1024), 3, 3),
        "rope_theta": number(1, 1e12),
        "norm_eps": EPSILON,
    },
    WRITTEN,
)
USUAL: Mapping[str, Any] = {
    "in_channels": 64, "attention_head_dim": 128, "num_attention_heads": 48, "num_key_value_heads": 12,
    "timestep_embed_dim": 256, "text_hidden_dim": 2560, "num_text_layers": 12, "text_num_attention_heads": 20,
    "text_num_key_value_heads": 20, "axes_dims_rope": [32, 48, 48],
}  # fmt: skip
"""What diffusers takes where a transformer's configuration says nothing."""
USUAL_LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
"""How many layers of the text encoder have run where it is read, where ``model_index.json`` says nothing."""
PATCH = 2
"""Latents along a side of a token."""

_READ = list_of(whole(-1000, 1000), 1, 1000)


def usual(config: Mapping[str, Any], key: str) -> Any:
    """What a transformer's configuration says, or diffusers' default."""
    return config.get(key, USUAL[key])


def layers_read(folder: Path, layers: int) -> tuple[int, ...]:
    """How many layers of the text encoder have run where a model reads it; 0 is before the first.

    folder: of the model.
    layers: that its text encoder has in all.

    Raises ModelError for a ``model_index.json`` that asks for others.
    """
    index = folder / "model_index.json"
    said = index_of(folder).get("text_encoder_select_layers")
    chosen = USUAL_LAYERS if said is None else said
    if not _READ.holds(list(chosen) if isinstance(chosen, (list, tuple)) else chosen):
        raise ModelError(
            f"{index} says that text_encoder_select_layers is {chosen!r:.60}, and it is a list of whole numbers; "
            "download it again."
        )
    if odd := next((one for one in chosen if not -layers <= one + 1 <= layers + 1), None):
        raise ModelError(
            f"{index} reads layer {odd} of a text encoder that has {layers}; download the whole of one model."
        )
    # From behind they are counted with the embedding before the first.
    return tuple(one if one >= 0 else one + layers + 1 for one in chosen)


def is_distilled(folder: Path) -> bool:
    """Whether a model was distilled to a few steps. Raises ModelError for a ``model_index.json`` that says neither."""
    said = index_of(folder).get("is_distilled")
    if not FLAG.or_none().holds(said):
        raise ModelError(
            f"{folder / 'model_index.json'} says that is_distilled is {said!r:.60}, and it is true or false; download "
            "it again."
        )
    return bool(said)


def _odd_transformer(config: Mapping[str, Any]) -> str | None:
    head_dim, axes = usual(config, "attention_head_dim"), usual(config, "axes_dims_rope")
    if any(axis % 2 for axis in axes) or sum(axes) != head_dim:
        return f"axes_dims_rope is {axes} and attention_head_dim {head_dim} (they are even and add up to it)"
    if not WIDTH.holds(width := head_dim * usual(config, "num_attention_heads")):
        return f"num_attention_heads times attention_head_dim is {width} ({WIDTH.says})"
    for heads, groups in (
        ("num_attention_heads", "num_key_value_heads"), ("text_num_attention_heads", "text_num_key_value_heads"),
        ("text_hidden_dim", "text_num_attention_heads"), ("in_channels", None), ("timestep_embed_dim", None),
    ):  # fmt: skip
        divisor = usual(config, groups) if groups else 4 if heads == "in_channels" else 2
        if (count := usual(config, heads)) % divisor:
            return f"{heads} is {count}, which is no multiple of {f'{groups}, {divisor}' if groups else divisor}"
    return None


def _together(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError for parts that are right one by one and of different models."""
    transformer, text = configs[DENOISER], configs[TEXT]
    patch = index_of(folder).get("patch_size")
    if patch not in (None, PATCH) or isinstance(patch, bool):
        raise ModelError(
            f"{folder / 'model_index.json'} says that patch_size is {patch!r:.60}, and dit360 runs {TITLE} models "
            f"whose tokens are {PATCH} by {PATCH} latents; give such a model."
        )
    is_distilled(folder)
    taken, made = usual(transformer, "in_channels"), 4 * one_frame_channels(configs[AUTOENCODER])
    if taken != made:
        raise ModelError(
            f"{folder / DENOISER} takes {taken} channels, and a picture's latents have {made} (4 times the "
            "autoencoder's); download the whole of one model."
        )
    wanted, width = usual(transformer, "text_hidden_dim"), text["hidden_size"]
    if wanted != width:
        raise ModelError(
            f"{folder / TEXT} has {width} channels, and the transformer takes {wanted}; download the whole of one "
            "model."
        )
    wanted, read = usual(transformer, "num_text_layers"), layers_read(folder, text["num_hidden_layers"])
    if wanted != len(read):
        raise ModelError(
            f"{folder / 'model_index.json'} reads {len(read)} layers of the text encoder, and the transformer takes "
            f"{wanted}; download the whole of one model."
        )


TOKENIZER = TokenizerKind(
    title=TITLE, classes=("Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
)
FOLDER = ModelFolder(
    title=TITLE,
    pipelines=(PIPELINE,),
    parts=PARTS,
    kinds={
        DENOISER: PartKind(classes=TRANSFORMERS, schema=TRANSFORMER, odd=_odd_transformer),
        AUTOENCODER: one_frame_kind("AutoencoderKLQwenImage"),
        TEXT: PartKind(
            classes=("Qwen3VLModel", "Qwen3VLForConditionalGeneration", "Qwen3VLTextModel"),
            types=("qwen3_vl", "qwen3_vl_text"),
            schema=LANGUAGE_MODEL,
            config_of=text_config_of,
            odd=odd_language_model,
        ),
        "scheduler": PartKind(schema=SCHEDULER, odd=odd_scheduler),
    },
    tokenizers={"tokenizer": TOKENIZER},
    together=_together,
)
