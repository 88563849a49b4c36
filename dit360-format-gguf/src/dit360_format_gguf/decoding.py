"""Blocks of a GGUF file back to numbers, by diffusers' functions."""

from __future__ import annotations

import functools
from typing import Any

import torch
from dit360_core.models.running import Decode, quiet
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

with quiet():
    from diffusers.quantizers.gguf.utils import dequantize_functions


def decode(kind: int) -> Decode:
    """What turns rows of blocks of a type back.

    kind: its number.
    """
    return functools.partial(_decoded, kind=kind)


def _decoded(tensors: tuple[torch.Tensor, ...], shape: tuple[int, ...], *, kind: int) -> torch.Tensor:
    type_ = GGMLQuantizationType(kind)
    block, width = GGML_QUANT_SIZES[type_]
    blocks = tensors[0].reshape(-1, width)
    turn_back: Any = dequantize_functions[type_]
    found: torch.Tensor = turn_back(blocks, block, width, torch.float32)
    return found.float().reshape(shape)
