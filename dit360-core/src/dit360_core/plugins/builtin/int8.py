"""Linear layers with int8 weights: symmetric, one scale for each output channel.

Two kernels compute with them. The dynamic one also rounds the activations, to eight bits with a scale for each token,
and multiplies integers; the weight-only one turns the weights back into the dtype of the activations, piece by piece.
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

_ROWS = 2048
"""Tokens that the dynamic kernel takes at once: what it holds besides its result is in float32."""


class Int8Linear(torch.nn.Module):
    """weight ``(out, in)`` int8, scale ``(out,)`` fp32, bias ``(out,)`` or None: y = x · (scale · weight)ᵀ + bias."""

    scale: torch.Tensor

    def __init__(self, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)


class WeightOnlyInt8Linear(Int8Linear):
    """Computes in the dtype of its input."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(scale, bias)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return multiply_turned_back(
            x, self.weight, self.scale, self.bias, lambda weight, scale: weight * scale[:, None]
        )


class DynamicInt8Linear(Int8Linear):
    """Computes in integers, with oneDNN's kernel for x86, whatever the dtype of its input.

    most: the largest rounded activation, 127 or 63; None: what the kernel takes here.
    """

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, *, most: int | None = None
    ) -> None:
        super().__init__(scale, bias)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, [_ROWS, weight.shape[1]])
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
        self._most = most or most_of_an_activation()

    @property
    def weight(self) -> torch.Tensor:
        """``(in, out)`` int8 as the kernel has it: an opaque tensor."""
        return self._packed  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        if len(rows) <= _ROWS:
            return self._multiplied(rows).view(*x.shape[:-1], -1)
        out = x.new_empty(len(rows), len(self.scale))
        for piece, into in zip(torch.split(rows, _ROWS), torch.split(out, _ROWS), strict=True):
            into.copy_(self._multiplied(piece))
        return out.view(*x.shape[:-1], -1)

    def _multiplied(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        # A scale for each token: FLUX has tokens, and channels in all of them, that are many times larger than others.
        largest = wide.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        # Unsigned, since the kernel for signed activations is thousands of times slower.
        middle = self._most + 1
        rounded = (wide * (self._most / largest)).round_().add_(middle).to(torch.uint8)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0 / self._most, middle, self._packed, self.scale, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        out = out.mul_(largest)
        return (out if self.bias is None else out.add_(self.bias)).to(x.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if fn(torch.empty(0)).device.type != "cpu":
            raise RuntimeError("int8 weights packed for a CPU cannot move to another device; load the model there")
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self._packed.to_dense().t().contiguous()


class Int8:
    """The quantizer: dynamic on a CPU that multiplies bytes, except for layers of one token; weight-only elsewhere."""

    def quantize(self, linear: torch.nn.Linear, *, one_token: bool) -> torch.nn.Module:
        weight = linear.weight.detach()
        scale = weight.float().abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        return _module(rounded, scale, linear.bias, one_token)

    def restore(
        self, linear: torch.nn.Linear, tensors: Mapping[str, torch.Tensor], *, one_token: bool
    ) -> torch.nn.Module:
        weight, scale = tensors["weight"], tensors["scale"]
        if weight.shape != linear.weight.shape or weight.dtype is not torch.int8 or len(scale) != len(weight):
            raise ValueError(f"weights are {tuple(weight.shape)} {weight.dtype}, scales {tuple(scale.shape)}")
        bias = None if linear.bias is None else tensors["bias"].to(linear.weight.dtype)
        return _module(weight, scale, bias, one_token)


def _module(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, one_token: bool) -> Int8Linear:
    dynamic = weight.device.type == "cpu" and not one_token and dynamic_works()
    bias = None if bias is None else bias.detach()
    return (DynamicInt8Linear if dynamic else WeightOnlyInt8Linear)(weight, scale, bias)


@functools.cache
def dynamic_works() -> bool:
    """Whether this CPU and this PyTorch have the kernel. Tried, since its operators are no promise of PyTorch's."""
    if not any(name in torch.backends.cpu.get_cpu_capability() for name in ("AVX2", "AVX512")):
        return False
    x = torch.linspace(-1, 1, 3 * 64).view(3, 64)
    weight = (torch.arange(32 * 64).view(32, 64) % 255 - 127).to(torch.int8)
    right = multiply(x, weight.float())
    try:
        made = DynamicInt8Linear(weight, torch.ones(32), None)
        return bool((made(x) - right).norm() < 0.05 * right.norm()) and torch.equal(made.state_dict()["weight"], weight)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        log.info("int8 computes with weights alone: this PyTorch's dynamic kernel failed (%s)", error)
        return False


@functools.cache
def most_of_an_activation() -> int:
    """127 where the kernel sums products of eight-bit activations rightly, else 63.

    Without VNNI it adds two products in 16 bits, which those overflow. Tried, since what a processor has is not what
    oneDNN uses (``ONEDNN_MAX_CPU_ISA``).
    """
    weight = torch.full((32, 64), 127, dtype=torch.int8)
    for rows in (1, 64):
        made = DynamicInt8Linear(weight, torch.ones(32), None, most=127)
        if not bool(((made(torch.ones(rows, 64)) / (64 * 127.0) - 1).abs() < 0.01).all()):
            return 63
    return 127
