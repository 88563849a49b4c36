"""Trial runs: a kernel is used only after it has reproduced the reference on small data of the real kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dit360_core.builtin.attention_kernels import eager, sdpa
from dit360_core.machine import Machine
from dit360_core.offers import AttentionNeed, Reason
from dit360_core.precision import torch_dtype

_LENGTHS = (64, 67)
"""Tokens of the trials: short, so that they cost nothing, and one that no block size divides."""


def probe_attention(attend: Any, machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    """Compares a kernel with float32 attention at the real head count, head size, device and dtype.

    Its error may be twice that of PyTorch's own attention in the same dtype, the rule by which FlashAttention tests
    itself; a few units in the last place are allowed on top, since two right answers differ by their order of sums.
    """
    dtype = torch_dtype(need.dtype)
    for length in _LENGTHS:
        generator = torch.Generator().manual_seed(0)
        shape = (need.batch, length, need.heads, need.head_dim)
        q, k, v = (torch.randn(shape, generator=generator).to(machine.device, dtype) for _ in range(3))
        scale = need.head_dim**-0.5
        wide = torch.promote_types(dtype, torch.float32)
        truth = eager(q.to(wide), k.to(wide), v.to(wide), scale=scale)
        allowed = 2 * _distance(sdpa(q, k, v, scale=scale), truth) + 8 * torch.finfo(dtype).eps
        # As many queries as keys, and fewer: the second is what a slice is.
        for rows in (length, length // 4):
            reasons = _judge(attend(q[:, :rows], k, v, scale=scale), truth[:, :rows], allowed)
            if reasons:
                return reasons
    return []


def _judge(out: Any, truth: torch.Tensor, allowed: float) -> list[Reason]:
    if not isinstance(out, torch.Tensor) or out.shape != truth.shape:
        told = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        return [Reason("probe_failed", f"it returned {told} where a tensor {tuple(truth.shape)} belongs")]
    error = _distance(out, truth)
    if not error <= allowed:  # also true for NaN
        return [Reason("probe_failed", f"its result is off by {error:.2g}, where {allowed:.2g} is allowed")]
    return []


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.to(b.dtype) - b).abs().max())
