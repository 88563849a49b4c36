"""Linear layers with weights in float8 (e4m3: four bits of exponent, three of mantissa), a scale for each channel.

Two kernels compute with them. The scaled one also rounds the activations, to float8 with a scale for each token, and
multiplies in eight bits; the weight-only one turns the weights back into the dtype of the activations.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import linear as multiply

from dit360_core.plugins.builtin.weight_only import multiply_turned_back

log = logging.getLogger("dit360")

_MOST = 448.0
"""The greatest number of e4m3."""
_TINY = torch.finfo(torch.float32).tiny
_ROWS = 2048
"""Tokens that the scaled kernel takes at once: what it holds besides its result is in float32."""


class Fp8Linear(torch.nn.Module):
    """weight ``(out, in)`` e4m3, scale ``(out,)`` fp32, bias ``(out,)`` or None: y = x · (scale · weight)ᵀ + bias."""

    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # To PyTorch they are floating point like any other, which module.to(dtype) would turn into 16 or 32 bits.
        if fn(torch.empty(0, dtype=torch.float8_e4m3fn)).dtype is not torch.float8_e4m3fn:
            raise RuntimeError("fp8 weights cannot become another dtype; load the model in the precision wanted")
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class WeightOnlyFp8Linear(Fp8Linear):
    """Computes in the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return multiply_turned_back(x, self.weight, self.scale, self.bias, _turned_back)


class ScaledFp8Linear(Fp8Linear):
    """Computes in eight bits whatever the dtype of its input, and gives no more digits than bf16 has.

    Both numbers of ``weight.shape`` are multiples of 16.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        shape = (*x.shape[:-1], len(self.scale))
        if len(rows) <= _ROWS:
            return self._multiplied(rows).view(shape)
        out = x.new_empty(len(rows), len(self.scale))
        for piece, into in zip(torch.split(rows, _ROWS), torch.split(out, _ROWS), strict=True):
            into.copy_(self._multiplied(piece))
        return out.view(shape)

    def _multiplied(self, x: torch.Tensor) -> torch.Tensor:
        # A scale for each token: FLUX has tokens, and channels in all of them, that are many times larger than others.
        scale = x.abs().amax(1, keepdim=True).float().div_(_MOST).clamp_min_(_TINY)
        # Copied, since the result of an operation may have the strides of x, and the kernel wants rows.
        rounded = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device).copy_(x / scale)
        # With scales for rows and columns, bf16 is the one result that all CUDA devices and versions of PyTorch give.
        # The faster accumulation loses digits that three bits of mantissa do not have.
        out = torch._scaled_mm(
            rounded,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale[None],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        ).to(x.dtype)
        return out if self.bias is None else out.add_(self.bias)


class Fp8:
    """The quantizer: scaled on CUDA devices that multiply float8, except for layers of one token; else weight-only."""

    def quantize(self, linear: torch.nn.Linear, *, one_token: bool) -> torch.nn.Module:
        weight = linear.weight.detach()
        scale = weight.abs().amax(1).float().div_(_MOST).clamp_min_(_TINY)
        rounded = (weight / scale[:, None]).to(torch.float8_e4m3fn)
        return _module(rounded, scale, linear.bias, one_token)

    def restore(
        self, linear: torch.nn.Linear, tensors: Mapping[str, torch.Tensor], *, one_token: bool
    ) -> torch.nn.Module:
        weight, scale = tensors["weight"], tensors["scale"]
        if weight.shape != linear.weight.shape or weight.dtype is not torch.float8_e4m3fn or len(scale) != len(weight):
            raise ValueError(f"weights are {tuple(weight.shape)} {weight.dtype}, scales {tuple(scale.shape)}")
        bias = None if linear.bias is None else tensors["bias"].to(linear.weight.dtype)
        return _module(weight, scale, bias, one_token)


def _module(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, one_token: bool) -> Fp8Linear:
    fits = not one_token and all(size % 16 == 0 for size in weight.shape)
    bias = None if bias is None else bias.detach()
    return (ScaledFp8Linear if fits and scaled_works(weight.device) else WeightOnlyFp8Linear)(weight, scale, bias)


def scaled_works(device: torch.device) -> bool:
    """Whether this device and this PyTorch multiply float8. CPUs have the operator, too, but not to gain by it."""
    capable = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    return capable and scaled_is_right(device)


@functools.cache
def scaled_is_right(device: torch.device) -> bool:
    """Tries the scaled kernel, since its operator is no promise of PyTorch's."""
    x = torch.linspace(-1, 1, 3 * 64, device=device).view(3, 64).to(torch.bfloat16)
    weight = torch.linspace(1, -3, 32 * 64, device=device).view(32, 64).sin().to(torch.float8_e4m3fn)
    scale = torch.linspace(1, 2, 32, device=device)
    right = multiply(x.float(), weight.float() * scale[:, None])
    try:
        found = ScaledFp8Linear(weight, scale, None)(x).float()
        return bool((found - right).norm() < 0.1 * right.norm())
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        log.info("fp8 computes with weights alone: this PyTorch's scaled kernel failed (%s)", error)
        return False


def _turned_back(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if weight.device.type != "cpu":
        return weight.float().mul_(scale[:, None])
    # PyTorch turns them back one by one on a CPU. Eight times faster: their bits, the sign apart and the rest shifted
    # to where fp16 has exponent and mantissa, are the same numbers over 256, since that is between the two's exponents.
    # What e4m3 has for NaN is none there, but a weight that is NaN has made its scale NaN as well.
    half = weight.view(torch.int8).short().bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
    return half * (scale * 256)[:, None]
