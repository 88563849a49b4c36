"""The configurations of a FLUX model: of each part by itself, and whether the parts fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError
from dit360_core.models.flux import channels
from dit360_core.models.weights.schema import FLAG, Schema, Value, checked, list_of, number, one_of, texts, whole

_LAYERS = whole(1, 1000)
_WIDEST = 16384
_WIDTH = whole(1, _WIDEST)
_VOCABULARY = whole(1, 2**20)
_ID = whole(0, 2**24)
_SHARE = number(0, 1)
_EPSILON = number(1e-12, 0.1)
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
# What the libraries write of themselves, and what is for training or for answering in words.
_WRITTEN = frozenset({
    "_class_name", "_diffusers_version", "transformers_version", "architectures", "model_type", "torch_dtype", "dtype",
    "initializer_factor", "initializer_range", "use_cache", "output_past", "task_specific_params", "n_positions",
    "decoder_start_token_id", "is_decoder", "is_encoder_decoder", "num_decoder_layers", "classifier_dropout",
    "_name_or_path", "quantization_config", "return_dict", "output_hidden_states", "output_attentions",
    "tie_word_embeddings", "scale_decoder_outputs", "use_bfloat16", "_use_default_values", "n_head",
    "gradient_checkpointing",
})  # fmt: skip
"""quantization_config: what is to be made of it is known to whoever reads weights."""

TRANSFORMER = Schema(
    {
        "patch_size": whole(1, 1),
        "in_channels": whole(4, 4096),
        "out_channels": whole(4, 4096).or_none(),
        "num_layers": whole(0, 1000),
        "num_single_layers": whole(0, 1000),
        "attention_head_dim": whole(2, 1024),
        "num_attention_heads": whole(1, 1024),
        "joint_attention_dim": _WIDTH,
        "pooled_projection_dim": _WIDTH,
        "guidance_embeds": FLAG,
        "axes_dims_rope": list_of(whole(2, 1024), 3, 3),
    },
    _WRITTEN,
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
    _WRITTEN,
)
CLIP = Schema(
    {
        "vocab_size": _VOCABULARY,
        "hidden_size": _WIDTH,
        "intermediate_size": whole(1, 65536),
        "projection_dim": _WIDTH.or_none(),
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": whole(1, 1024),
        "max_position_embeddings": whole(2, 8192),
        "hidden_act": one_of(*_ACTIVATIONS),
        "layer_norm_eps": _EPSILON,
        "attention_dropout": _SHARE,
        "pad_token_id": _ID.or_none(),
        "bos_token_id": _ID.or_none(),
        "eos_token_id": _ID,
    },
    _WRITTEN | {"dropout"},
)
T5 = Schema(
    {
        "vocab_size": _VOCABULARY,
        "d_model": _WIDTH,
        "d_kv": whole(1, 1024),
        "d_ff": whole(1, 65536),
        "num_layers": _LAYERS,
        "num_heads": whole(1, 1024),
        "relative_attention_num_buckets": whole(4, 4096),
        "relative_attention_max_distance": whole(2, 2**20),
        "dropout_rate": _SHARE,
        "layer_norm_epsilon": _EPSILON,
        "feed_forward_proj": one_of(*_ACTIVATIONS, *(f"gated-{name}" for name in _ACTIVATIONS)),
        "dense_act_fn": one_of(*_ACTIVATIONS),
        "is_gated_act": FLAG,
        "pad_token_id": _ID.or_none(),
        "eos_token_id": _ID.or_none(),
    },
    _WRITTEN,
)
SCHEDULER = Schema(
    {
        # The transformer is told the noise level in thousandths, whatever a scheduler counts.
        "num_train_timesteps": whole(1000, 1000),
        "shift": number(1e-3, 1000),
        "use_dynamic_shifting": FLAG,
        "base_shift": number(-10, 10),
        "max_shift": number(-10, 10),
        "base_image_seq_len": whole(1, 2**24),
        "max_image_seq_len": whole(1, 2**24),
        "invert_sigmas": FLAG,
        "shift_terminal": _SHARE.or_none(),
        "use_karras_sigmas": FLAG.or_none(),
        "use_exponential_sigmas": FLAG.or_none(),
        "use_beta_sigmas": FLAG.or_none(),
        "time_shift_type": one_of("exponential", "linear"),
        "stochastic_sampling": FLAG,
    },
    _WRITTEN,
)
_SPECIAL = Value(
    lambda value: texts(256).holds(value.get("content") if isinstance(value, dict) else value),
    "a text of at most 256 characters, or an object with one as its content",
)
_SPECIALS = {name: _SPECIAL.or_none() for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
_PLENTY = 10**30
"""A round number above what transformers writes for "no limit"."""
TOKENIZER = Schema(
    {
        **_SPECIALS,
        "model_max_length": number(1, _PLENTY),
        "tokenizer_class": one_of("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"),
        "extra_ids": whole(0, 10_000),
        "add_prefix_space": FLAG.or_none(),
        "do_lower_case": FLAG.or_none(),
        "errors": one_of("replace", "strict", "ignore"),
        "padding_side": one_of("right"),
        "truncation_side": one_of("right"),
        "additional_special_tokens": list_of(_SPECIAL, 0, 10_000).or_none(),
        "extra_special_tokens": list_of(_SPECIAL, 0, 10_000).or_none(),
        "added_tokens_decoder": Value(
            lambda value: isinstance(value, dict)
            and all(
                key.isdecimal() and isinstance(token, dict) and _SPECIAL.holds(token) for key, token in value.items()
            ),
            "an object from token numbers to tokens",
        ),
    },
    {
        "backend", "is_local", "local_files_only", "clean_up_tokenization_spaces", "name_or_path", "processor_class",
        "special_tokens_map_file", "sp_model_kwargs", "legacy", "vocab_file", "merges_file", "tokenizer_file",
        "tokenizer_type", "chat_template", "unk_id", "add_special_tokens", "split_special_tokens",
    },
)  # fmt: skip
SPECIAL_TOKENS = Schema({**_SPECIALS, "additional_special_tokens": list_of(_SPECIAL, 0, 10_000).or_none()})

SCHEMAS = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "text_encoder": CLIP,
    "text_encoder_2": T5,
    "scheduler": SCHEDULER,
    "tokenizer": TOKENIZER,
    "tokenizer_2": TOKENIZER,
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
    "scheduler": {
        "base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15,
        "use_dynamic_shifting": False,
    },
}  # fmt: skip
"""What the libraries take where a file says nothing, as far as it is compared here."""


def value_of(part: str, config: Mapping[str, Any], key: str) -> Any:
    """What a configuration says, or the libraries' default."""
    return config.get(key, DEFAULTS[part].get(key))


def check_part(part: str, file: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a part with the keys that are known. Raises ModelError for what cannot be."""
    config = checked(file, found, SCHEMAS[part])
    why = _IMPOSSIBLE[part](config) if part in _IMPOSSIBLE else None
    if why:
        raise ModelError(f"{file} says that {why}, which cannot be; download it again.")
    return config


def _transformer(config: Mapping[str, Any]) -> str | None:
    head_dim, axes = (
        value_of("transformer", config, "attention_head_dim"),
        value_of("transformer", config, "axes_dims_rope"),
    )
    if any(axis % 2 for axis in axes) or sum(axes) != head_dim:
        return f"axes_dims_rope is {axes} and attention_head_dim {head_dim} (they are even and add up to it)"
    if (width := head_dim * value_of("transformer", config, "num_attention_heads")) > _WIDEST:
        return f"num_attention_heads times attention_head_dim is {width} (at most {_WIDEST})"
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


def _scheduler(config: Mapping[str, Any]) -> str | None:
    few, many = (value_of("scheduler", config, name) for name in ("base_image_seq_len", "max_image_seq_len"))
    if few >= many:
        return f"base_image_seq_len is {few} and max_image_seq_len {many} (the first is the smaller)"
    return None


_IMPOSSIBLE = {
    "transformer": _transformer,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _t5,
    "scheduler": _scheduler,
}


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
