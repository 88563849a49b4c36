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


# One kernel by name. The operators themselves are called: torch.nn.attention.sdpa_kernel switches kernels for the whole
# process, and so for other threads and other pipelines too.


def sdpa_flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """PyTorch's flash kernel of the device."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.device.type == "cpu":
        out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)[0]
    else:
        # The kernel takes heads of a multiple of eight channels; zeros change neither scores nor values.
        channels = q.shape[-1]
        missing = -channels % 8
        if missing:
            q, k, v = (F.pad(t, (0, missing)) for t in (q, k, v))
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0][..., :channels]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_efficient(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """PyTorch's memory-efficient kernel."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False, scale=scale)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """cuDNN's kernel."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False, scale=scale)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_math(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
    """PyTorch's unfused attention: ``B·H·Sq·Sk`` numbers at once."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, scale=scale)[0].transpose(1, 2)  # type: ignore[no-any-return]
