"""The kernels behind ``eager`` and ``sdpa…``. All tensors ``(B, S, H, D)``; key_bias ``(Sk,)`` or None."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dit360_core.plugins import as_mask

Bias = torch.Tensor | None


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None) -> torch.Tensor:
    """softmax(q·kᵀ·scale + key_bias)·v, scores and softmax in at least float32: ``B·H·Sq·Sk`` numbers at once."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, value = (t.transpose(1, 2).to(wide) for t in (q, k, v))
    scores = (q * scale) @ k.transpose(-1, -2)
    if key_bias is not None:
        scores += key_bias
    # The weights take the place of the scores: half the memory, and on a CPU a quarter less time. Not where gradients
    # need both, nor where the kernel of a device might read what it has already written.
    in_place = not scores.requires_grad and scores.device.type in ("cpu", "cuda")
    weights = torch.softmax(scores, dim=-1, out=scores if in_place else None)
    return (weights @ value).transpose(1, 2).to(v.dtype)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None) -> torch.Tensor:
    """PyTorch's fused attention, with whichever of its kernels fits the device and dtype."""
    mask = as_mask(q, k, key_bias)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


# One kernel by name. The operators themselves are called: torch.nn.attention.sdpa_kernel switches kernels for the whole
# process, and so for other threads and other pipelines too. Nothing checks what they are given: a mask of another dtype
# than q gives wrong numbers, not an error.


def sdpa_flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None
) -> torch.Tensor:
    """PyTorch's flash kernel of the device. Takes a bias on the CPU only."""
    mask = as_mask(q, k, key_bias)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.device.type == "cpu":
        out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)[0]
    elif mask is not None:
        raise ValueError("PyTorch's flash kernel takes no bias on CUDA")
    else:
        # The kernel takes heads of a multiple of eight channels; zeros change neither scores nor values.
        channels = q.shape[-1]
        missing = -channels % 8
        if missing:
            q, k, v = (F.pad(t, (0, missing)) for t in (q, k, v))
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0][..., :channels]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_efficient(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None
) -> torch.Tensor:
    """PyTorch's memory-efficient kernel."""
    mask = as_mask(q, k, key_bias)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, False, scale=scale)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None
) -> torch.Tensor:
    """cuDNN's kernel."""
    mask = as_mask(q, k, key_bias)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, mask, False, scale=scale)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def sdpa_math(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: Bias = None
) -> torch.Tensor:
    """PyTorch's unfused attention: ``B·H·Sq·Sk`` numbers at once."""
    mask = as_mask(q, k, key_bias)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_attention_math(q, k, v, attn_mask=mask, scale=scale)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]
