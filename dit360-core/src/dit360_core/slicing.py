"""Attention for a part of the queries at a time."""

from __future__ import annotations

import torch

from dit360_core.offers import Attend


def sliced(attend: Attend, rows: int) -> Attend:
    """The same attention, ``rows`` queries at a time: exact, since the rows of a softmax know nothing of each other."""

    def attend_in_slices(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **bias: torch.Tensor
    ) -> torch.Tensor:
        if q.shape[1] <= rows:
            return attend(q, k, v, scale=scale, **bias)
        out = torch.empty_like(q)
        for start in range(0, q.shape[1], rows):
            out[:, start : start + rows] = attend(q[:, start : start + rows], k, v, scale=scale, **bias)
        return out

    return attend_in_slices
