"""A bias on the keys as the mask that fused kernels take."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def as_mask(q: torch.Tensor, k: torch.Tensor, key_bias: torch.Tensor | None) -> torch.Tensor | None:
    """``key_bias`` ``(Sk,)`` → ``(B, H, Sq, Sk)`` in the dtype of q, for q and k of ``(B, S, H, D)``; None stays None.

    One row in memory, whatever the number of queries, aligned to eight numbers as CUDA's kernels ask.
    """
    if key_bias is None:
        return None
    keys = k.shape[1]
    row = F.pad(key_bias.to(q.dtype), (0, -keys % 8))[:keys]
    return row.expand(q.shape[0], q.shape[2], q.shape[1], keys)
