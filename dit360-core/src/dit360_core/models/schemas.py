"""What the configurations of all families have in common: ranges, keys that mean nothing, and the scheduler's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.models.weights.schema import FLAG, Schema, Value, list_of, number, one_of, whole

LAYERS = whole(1, 1000)
WIDEST = 16384
WIDTH = whole(1, WIDEST)
VOCABULARY = whole(1, 2**20)
ID = whole(0, 2**24)
SHARE = number(0, 1)
EPSILON = number(1e-12, 0.1)
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
# What the libraries write of themselves, and what is for training or for answering in words.
WRITTEN = frozenset({
    "_class_name", "_diffusers_version", "transformers_version", "architectures", "model_type", "torch_dtype", "dtype",
    "initializer_factor", "initializer_range", "use_cache", "output_past", "task_specific_params", "n_positions",
    "decoder_start_token_id", "is_decoder", "is_encoder_decoder", "num_decoder_layers", "classifier_dropout",
    "_name_or_path", "quantization_config", "return_dict", "output_hidden_states", "output_attentions",
    "tie_word_embeddings", "scale_decoder_outputs", "use_bfloat16", "_use_default_values", "n_head",
    "gradient_checkpointing",
})  # fmt: skip
"""quantization_config: what is to be made of it is known to whoever reads weights."""

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
        "shift_terminal": SHARE.or_none(),
        "use_karras_sigmas": FLAG.or_none(),
        "use_exponential_sigmas": FLAG.or_none(),
        "use_beta_sigmas": FLAG.or_none(),
        "time_shift_type": one_of("exponential", "linear"),
        "stochastic_sampling": FLAG,
    },
    WRITTEN,
)


def odd_scheduler(config: Mapping[str, Any]) -> str | None:
    """What cannot be in a scheduler's configuration, though its keys are right one by one; None: nothing."""
    if odd := next((name for name in UNSUPPORTED_LEVELS if config.get(name)), None):
        return f"{odd} is true (noise levels are spaced by an option, and no model is known to be trained so)"
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    if few >= many:
        return f"base_image_seq_len is {few} and max_image_seq_len {many} (the first is the smaller)"
    return None


UNSUPPORTED_LEVELS = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling",
)  # fmt: skip
"""Settings of FlowMatchEulerDiscreteScheduler that would change the noise levels in ways not done here."""
_ROPE = frozenset({
    "rope_type", "type", "rope_theta", "factor", "mrope_section", "mrope_interleaved", "partial_rotary_factor",
    "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "llama_4_scaling_beta", "truncate",
})  # fmt: skip


def _is_rope(value: Any) -> bool:
    """Numbers, flags, short names and lists of whole numbers, under names that are known."""

    def plain(entry: Any) -> bool:
        if isinstance(entry, list):
            return len(entry) <= 16 and all(whole(1, 4096).holds(each) for each in entry)
        named = isinstance(entry, str) and entry.isidentifier() and len(entry) <= 32
        return named or isinstance(entry, bool) or number(0, 1e12).holds(entry)

    return isinstance(value, dict) and all(key in _ROPE and plain(entry) for key, entry in value.items())


ROPE = Value(_is_rope, "an object with what transformers knows of rotary positions")
LANGUAGE_MODEL = Schema(
    {
        "hidden_size": WIDTH,
        "intermediate_size": whole(1, 2**20),
        "num_hidden_layers": LAYERS,
        "num_attention_heads": whole(1, 1024),
        "num_key_value_heads": whole(1, 1024).or_none(),
        "head_dim": whole(2, 1024).or_none(),
        "hidden_act": one_of(*ACTIVATIONS),
        "max_position_embeddings": whole(2, 2**24),
        "rms_norm_eps": EPSILON,
        "rope_theta": number(1, 1e12),
        "rope_parameters": ROPE.or_none(),
        "rope_scaling": ROPE.or_none(),
        "attention_bias": FLAG,
        "attention_dropout": SHARE,
        "layer_types": list_of(one_of("full_attention", "sliding_attention"), 1, 1000).or_none(),
        "max_window_layers": whole(0, 1000).or_none(),
        "sliding_window": whole(1, 2**24).or_none(),
        "use_sliding_window": FLAG,
        "vocab_size": VOCABULARY,
        "pad_token_id": ID.or_none(),
        "model_type": Value(lambda value: isinstance(value, str) and value.isidentifier(), "a name"),
    },
    (WRITTEN - {"model_type"}) | {
        "bos_token_id", "eos_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id",
        "image_token_id", "video_token_id", "image_token_index", "spatial_merge_size", "projector_hidden_act",
        "multimodal_projector_bias", "vision_feature_layer", "vision_config", "_attn_implementation_autoset",
        "chunk_size_feed_forward", "problem_type", "id2label", "label2id", "is_composition",
    },
)  # fmt: skip
"""A language model that reads a prompt, such as a decoder of transformers, alone or with eyes."""


def odd_language_model(config: Mapping[str, Any]) -> str | None:
    """What cannot be in a language model's configuration, though its keys are right one by one; None: nothing."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    groups = config.get("num_key_value_heads") or heads
    if width is None or heads is None or "num_hidden_layers" not in config or "vocab_size" not in config:
        return "it has no hidden_size, num_attention_heads, num_hidden_layers or vocab_size"
    if heads % groups:
        return f"num_attention_heads is {heads} and num_key_value_heads {groups}, which does not divide it"
    if not config.get("head_dim") and width % heads:
        return f"hidden_size is {width} and num_attention_heads {heads}, which does not divide it"
    kinds = config.get("layer_types")
    if kinds is not None and len(kinds) != config["num_hidden_layers"]:
        return f"layer_types has {len(kinds)} entries and num_hidden_layers is {config['num_hidden_layers']}"
    return None


def text_config_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the language model in that of one which sees pictures, too; else the same."""
    inner = found.get("text_config")
    return inner if isinstance(inner, dict) else found
