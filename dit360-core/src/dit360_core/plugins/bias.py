"""A bias on the keys as the mask that fused kernels take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def as_mask(q: torch.Tensor, k: torch.Tensor, key_bias: torch.Tensor | None) -> torch.Tensor | None:
    """``key_bias`` → ``(B, H, Sq, Sk)`` in the dtype of q; None stays None.

    One row in memory, whatever the number of queries, aligned to eight numbers as CUDA's kernels ask.

    q: the queries, ``(B, Sq, H, D)``.
    k: the keys, ``(B, Sk, H, D)``.
    key_bias: what is added to the scores of each key, ``(Sk,)``.
    """
    if key_bias is None:
        return None
    from torch.nn.functional import pad  # here, so that plugins can import this without torch

    keys = k.shape[1]
    row = pad(key_bias.to(q.dtype), (0, -keys % 8))[:keys]
    return row.expand(q.shape[0], q.shape[2], q.shape[1], keys)
