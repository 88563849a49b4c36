"""The configurations of a FLUX model: of each part by itself, and whether the parts fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError
from dit360_core.models.flux import channels
from dit360_core.models.schemas import (
    ACTIVATIONS,
    EPSILON,
    ID,
    LAYERS,
    SCHEDULER,
    SHARE,
    VOCABULARY,
    WIDEST,
    WIDTH,
    WRITTEN,
    odd_scheduler,
)
from dit360_core.models.weights.schema import FLAG, Schema, Value, list_of, number, one_of, whole

TRANSFORMER = Schema(
    {
        "patch_size": whole(1, 1),
        "in_channels": whole(4, 4096),
        "out_channels": whole(4, 4096).or_none(),
        "num_layers": whole(0, 1000),
        "num_single_layers": whole(0, 1000),
        "attention_head_dim": whole(2, 1024),
        "num_attention_heads": whole(1, 1024),
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "guidance_embeds": FLAG,
        "axes_dims_rope": list_of(whole(2, 1024), 3, 3),
    },
    WRITTEN,
)
VAE = Schema(
    {
        "in_channels": whole(3, 3),
        "out_channels": whole(3, 3),
        "down_block_types": list_of(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), 1, 16),
        "up_block_types": list_of(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), 1, 16),
        "block_out_channels": list_of(whole(1, 8192), 1, 16),
        "layers_per_block": whole(1, 100),
        "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
        "latent_channels": whole(1, 1024),
        "norm_num_groups": whole(1, 8192),
        "sample_size": whole(1, 65536),
        "scaling_factor": number(1e-6, 1e6),
        "shift_factor": number(-1e6, 1e6).or_none(),
        "latents_mean": Value(lambda value: value is None, "null in a FLUX model"),
        "latents_std": Value(lambda value: value is None, "null in a FLUX model"),
        "force_upcast": FLAG,
        "use_quant_conv": FLAG,
        "use_post_quant_conv": FLAG,
        "mid_block_add_attention": FLAG,
    },
    WRITTEN,
)
CLIP = Schema(
    {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": whole(1, 65536),
        "projection_dim": WIDTH.or_none(),
        "num_hidden_layers": LAYERS,
        "num_attention_heads": whole(1, 1024),
        "max_position_embeddings": whole(2, 8192),
        "hidden_act": one_of(*ACTIVATIONS),
        "layer_norm_eps": EPSILON,
        "attention_dropout": SHARE,
        "pad_token_id": ID.or_none(),
        "bos_token_id": ID.or_none(),
        "eos_token_id": ID,
    },
    WRITTEN | {"dropout"},
)
T5 = Schema(
    {
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "d_kv": whole(1, 1024),
        "d_ff": whole(1, 65536),
        "num_layers": LAYERS,
        "num_heads": whole(1, 1024),
        "relative_attention_num_buckets": whole(4, 4096),
        "relative_attention_max_distance": whole(2, 2**20),
        "dropout_rate": SHARE,
        "layer_norm_epsilon": EPSILON,
        "feed_forward_proj": one_of(*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS)),
        "dense_act_fn": one_of(*ACTIVATIONS),
        "is_gated_act": FLAG,
        "pad_token_id": ID.or_none(),
        "eos_token_id": ID.or_none(),
    },
    WRITTEN,
)
SCHEMAS = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "text_encoder": CLIP,
    "text_encoder_2": T5,
    "scheduler": SCHEDULER,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "transformer": {
        "in_channels": 64, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "pooled_projection_dim": 768, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56],
    },
    "vae": {
        "block_out_channels": [64], "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
        "latent_channels": 4, "norm_num_groups": 32,
    },
    "text_encoder": {
        "hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 77, "vocab_size": 49408,
        "eos_token_id": 49407,
    },
    "text_encoder_2": {"d_model": 512, "vocab_size": 32128},
}  # fmt: skip
"""What the libraries take where a file says nothing, as far as it is compared here."""


def value_of(part: str, config: Mapping[str, Any], key: str) -> Any:
    """What a configuration says, or the libraries' default."""
    return config.get(key, DEFAULTS[part].get(key))


def _transformer(config: Mapping[str, Any]) -> str | None:
    head_dim, axes = (
        value_of("transformer", config, "attention_head_dim"),
        value_of("transformer", config, "axes_dims_rope"),
    )
    if any(axis % 2 for axis in axes) or sum(axes) != head_dim:
        return f"axes_dims_rope is {axes} and attention_head_dim {head_dim} (they are even and add up to it)"
    if (width := head_dim * value_of("transformer", config, "num_attention_heads")) > WIDEST:
        return f"num_attention_heads times attention_head_dim is {width} (at most {WIDEST})"
    if not config.get("num_layers", 19) + config.get("num_single_layers", 38):
        return "num_layers and num_single_layers are 0"
    return None


def _vae(config: Mapping[str, Any]) -> str | None:
    widths, groups = value_of("vae", config, "block_out_channels"), value_of("vae", config, "norm_num_groups")
    for name in ("down_block_types", "up_block_types"):
        if len(value_of("vae", config, name)) != len(widths):
            return f"{name} has {len(value_of('vae', config, name))} entries and block_out_channels {len(widths)}"
    if odd := next((width for width in widths if width % groups), None):
        return f"block_out_channels has {odd} and norm_num_groups is {groups}, which does not divide it"
    return None


def _clip(config: Mapping[str, Any]) -> str | None:
    width, heads = (
        value_of("text_encoder", config, "hidden_size"),
        value_of("text_encoder", config, "num_attention_heads"),
    )
    if width % heads:
        return f"hidden_size is {width} and num_attention_heads {heads}, which does not divide it"
    return None


def _t5(config: Mapping[str, Any]) -> str | None:
    buckets, reach = (
        config.get("relative_attention_num_buckets", 32),
        config.get("relative_attention_max_distance", 128),
    )
    if buckets % 4 or reach <= buckets // 4:
        return f"relative_attention_num_buckets is {buckets} and relative_attention_max_distance {reach}"
    return None


IMPOSSIBLE: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "transformer": _transformer,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _t5,
    "scheduler": odd_scheduler,
}
"""Part → what cannot be in its configuration, though its keys are right one by one."""


# -------------------------------------------------------------------------------------------------- parts of one model


def check_together(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError for parts that are fine and of different models, or of a kind that paints no text's picture."""
    transformer, vae = configs["transformer"], configs["vae"]
    if why := why_no_painter(transformer, value_of("vae", vae, "latent_channels")):
        raise ModelError(f"{folder / 'transformer'} {why}.")
    if (factor := 2 ** (len(value_of("vae", vae, "block_out_channels")) - 1)) != 8:
        raise ModelError(
            f"{folder / 'vae'} makes latents {factor} times smaller than the picture, and FLUX's are 8 times smaller; "
            "give such a model."
        )
    for key, part, width in (
        ("joint_attention_dim", "text_encoder_2", "d_model"),
        ("pooled_projection_dim", "text_encoder", "hidden_size"),
    ):
        wanted, made = value_of("transformer", transformer, key), value_of(part, configs[part], width)
        if wanted != made:
            raise ModelError(
                f"{folder / part} makes embeddings of {made} channels, and the transformer takes {wanted}; download "
                "the whole of one model."
            )


def why_no_painter(transformer: Mapping[str, Any], latents: int) -> str | None:
    """Why a transformer paints no picture of a prompt, nor fills a part of one, or None.

    transformer: its configuration.
    latents: channels of the autoencoder's.
    """
    taken, made, needed = channels.taken(transformer), channels.made(transformer), channels.OF_A_PATCH * latents
    beside = channels.noise_of_a_fill(taken) == needed
    if made == needed and (taken == needed or beside):
        return None
    if taken == needed:
        return (
            f"takes {taken} channels and makes {made}, and a FLUX model for pictures of prompts makes as many as it "
            "takes; give such a model"
        )
    if beside:
        return f"takes {taken} channels, as FLUX.1-Fill does, and makes {made} instead of {needed}; give another"
    # Beside the noise a picture of edges or depths.
    if taken == 2 * needed:
        return (
            f"takes {taken} channels, as FLUX.1-Depth and FLUX.1-Canny do, which follow a control picture, and "
            "dit360 does not; give a text-to-image model, such as FLUX.1-dev"
        )
    return (
        f"takes {taken} channels, and a picture's latents have {needed} (4 times the autoencoder's {latents}); give "
        "the parts of one text-to-image model"
    )
