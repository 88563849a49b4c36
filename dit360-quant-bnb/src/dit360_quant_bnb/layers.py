"""bitsandbytes' layers, made from Linear ones and from their own state. The only module here that imports it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch

# While it is imported it looks for a kernel for CPUs, which is not used here (see Nf4), and tells that it has none.
_noisy = [logging.getLogger(name) for name in ("bitsandbytes", "kernels")]
_levels = [logger.level for logger in _noisy]
for _logger in _noisy:
    _logger.setLevel(logging.ERROR)
try:
    import bitsandbytes.functional
    import bitsandbytes.nn
finally:
    for _logger, _level in zip(_noisy, _levels, strict=True):
        _logger.setLevel(_level)

_nn: Any = bitsandbytes.nn  # it says no types

# At every call it says that it computes in fp16 whatever it is given, which README.md says once.
logging.getLogger("bitsandbytes.autograd._functions").addFilter(
    lambda record: "inputs will be cast" not in record.getMessage()
)

_BLOCK = 64
"""Weights that share a scale."""


class Nf4:
    """``Linear4bit`` with normal-float numbers (Dettmers et al. 2023).

    double: the scales are quantized as well.
    """

    def __init__(self, *, double: bool) -> None:
        self._double = double

    def quantize(self, linear: torch.nn.Linear, *, one_token: bool) -> Any:
        weight = _nn.Params4bit(
            linear.weight.detach(),
            requires_grad=False,
            quant_type="nf4",
            blocksize=_BLOCK,
            compress_statistics=self._double,
        )
        return self._layer(linear, weight, linear.bias).to(linear.weight.device)

    def restore(self, linear: torch.nn.Linear, tensors: Mapping[str, torch.Tensor], *, one_token: bool) -> Any:
        weight = _nn.Params4bit.from_prequantized(
            data=tensors["weight"],
            quantized_stats={name: value for name, value in tensors.items() if name.startswith("weight.")},
            requires_grad=False,
            device=tensors["weight"].device,
        )
        # The dtype of what comes back from four bits, which was that of the machine where it was stored.
        weight.quant_state.dtype = linear.weight.dtype
        if tuple(weight.quant_state.shape) != tuple(linear.weight.shape):
            raise ValueError(f"weights are of the shape {tuple(weight.quant_state.shape)}")
        return self._layer(linear, weight, None if linear.bias is None else tensors["bias"])

    def _layer(self, linear: torch.nn.Linear, weight: Any, bias: torch.Tensor | None) -> Any:
        layer = (_nn.Linear4bit if linear.in_features % _BLOCK == 0 else BrokenRows)(
            linear.in_features,
            linear.out_features,
            bias=bias is not None,
            compute_dtype=linear.weight.dtype,
            compress_statistics=self._double,
            quant_type="nf4",
            device="meta",
        )
        # Its packing for CPUs with AVX512-BF16 is not used. That of 0.50.2 rounds the scales to bfloat16, is undone
        # wrongly when the layer is saved, and multiplies wrongly what is not contiguous, or not of 64 a row.
        layer.support_avx512bf16_for_cpu = False
        layer.weight = weight
        layer.bias = _bias(linear, bias)
        return layer


class BrokenRows(_nn.Linear4bit):  # type: ignore[misc]
    """One whose rows do not end where blocks do. Its weights come back from four bits as one row.

    The kernel of 0.50.2 for CPUs with AVX-512 takes the scales of other blocks where such rows are short.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = copy.copy(self.weight.quant_state)
        state.shape = torch.Size([self.in_features * self.out_features])
        weight = bitsandbytes.functional.dequantize_4bit(self.weight.data, state)
        weight = weight.view(self.out_features, self.in_features).to(x.dtype)
        return torch.nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


class LlmInt8:
    """``Linear8bitLt`` (Dettmers et al. 2022), with the threshold of 6 above which activations are left in full."""

    def quantize(self, linear: torch.nn.Linear, *, one_token: bool) -> Any:
        weight = _nn.Int8Params(linear.weight.detach(), requires_grad=False, has_fp16_weights=False)
        return _eight_bit(linear, weight, linear.bias).to(linear.weight.device)

    def restore(self, linear: torch.nn.Linear, tensors: Mapping[str, torch.Tensor], *, one_token: bool) -> Any:
        if tensors["weight"].shape != linear.weight.shape or len(tensors["SCB"]) != linear.out_features:
            raise ValueError(f"weights are of the shape {tuple(tensors['weight'].shape)}")
        weight = _nn.Int8Params(tensors["weight"], requires_grad=False, has_fp16_weights=False)
        weight.CB, weight.SCB = tensors["weight"], tensors["SCB"]
        return _eight_bit(linear, weight, None if linear.bias is None else tensors["bias"])


class LlmInt8Linear(_nn.Linear8bitLt):  # type: ignore[misc]
    """Takes the scales along when the model that it is in moves to another device, as offloading does."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        weight = self.weight
        for holder in (weight, self.state):
            if holder.CB is not None:
                holder.CB = weight.data
            if holder.SCB is not None:
                holder.SCB = holder.SCB.to(weight.device)
        return moved


def _eight_bit(linear: torch.nn.Linear, weight: Any, bias: torch.Tensor | None) -> Any:
    layer = LlmInt8Linear(
        linear.in_features,
        linear.out_features,
        bias=bias is not None,
        has_fp16_weights=False,
        threshold=6.0,
        device="meta",
    )
    layer.weight = weight
    layer.bias = _bias(linear, bias)
    return layer


def _bias(linear: torch.nn.Linear, bias: torch.Tensor | None) -> torch.nn.Parameter | None:
    return None if bias is None else torch.nn.Parameter(bias.detach().to(linear.weight.dtype), requires_grad=False)
