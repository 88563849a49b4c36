"""The kernels behind ``eager`` and ``sdpa``. All tensors ``(B, S, H, D)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """softmax(q·kᵀ·scale)·v, scores and softmax in at least float32: ``B·H·Sq·Sk`` numbers at once."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, value = (t.transpose(1, 2).to(wide) for t in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return (weights @ value).transpose(1, 2).to(v.dtype)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """PyTorch's fused attention, with whichever of its kernels fits the device and dtype."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
    return out.transpose(1, 2)
