"""What the configurations of all families have in common: ranges, keys that mean nothing, and the scheduler's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit360_core.models.weights.schema import FLAG, Schema, number, one_of, whole

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
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    if few >= many:
        return f"base_image_seq_len is {few} and max_image_seq_len {many} (the first is the smaller)"
    return None
