"""What llama.cpp calls the tensors of a T5 encoder, whose GGUF files have its names and not the model's makers'.

Source: gguf-py's ``TENSOR_NAMES`` of the architectures T5 and T5ENCODER.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLOCK = {
    "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k", "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o", "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm", "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1", "ffn_down": "layer.1.DenseReluDense.wo", "ffn_norm": "layer.1.layer_norm",
}  # fmt: skip
_TOP = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
_SIGN = "enc.blk.0.attn_q.weight"


def model_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the file → the model's, where all of the file has llama.cpp's; else the same."""
    every = list(names)
    return {name: _model_name(name) for name in every} if _SIGN in every else {name: name for name in every}


def _model_name(name: str) -> str:
    if match := re.fullmatch(r"enc\.blk\.(\d+)\.(\w+)\.weight", name):
        layer = _BLOCK.get(match[2])
        return name if layer is None else f"encoder.block.{match[1]}.{layer}.weight"
    return _TOP.get(name, name)


T5_ENCODER = "t5encoder"
"""llama.cpp's name of the architecture."""
_BLOCK_WRITTEN, _TOP_WRITTEN = ({here: there for there, here in names.items()} for names in (_BLOCK, _TOP))
_SIGN_HERE = "encoder.block.0.layer.0.SelfAttention.q.weight"


def written_names(names: Iterable[str]) -> dict[str, str]:
    """Name of a tensor → what a GGUF file calls it: llama.cpp's of a T5 encoder, and else the same."""
    every = list(names)
    return {name: _llamas_name(name) for name in every} if _SIGN_HERE in every else {name: name for name in every}


def _llamas_name(name: str) -> str:
    if match := re.fullmatch(r"encoder\.block\.(\d+)\.([\w.]+)\.weight", name):
        theirs = _BLOCK_WRITTEN.get(match[2])
        return name if theirs is None else f"enc.blk.{match[1]}.{theirs}.weight"
    return _TOP_WRITTEN.get(name, name)
