"""Attention for a part of the queries at a time."""

from __future__ import annotations

import torch

from dit360_core.plugins.offers import Attend


def sliced(attend: Attend, rows: int) -> Attend:
    """The same attention, ``rows`` queries at a time: exact, since the rows of a softmax know nothing of each other."""

    def attend_in_slices(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **bias: torch.Tensor
    ) -> torch.Tensor:
        if q.shape[1] <= rows:
            return attend(q, k, v, scale=scale, **bias)
        out = torch.empty_like(q)
        for start in range(0, q.shape[1], rows):
            part = q[:, start : start + rows]
            out[:, start : start + rows] = of_its_shape(attend(part, k, v, scale=scale, **bias), part)
        return out

    return attend_in_slices


def of_its_shape(out: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What a kernel returned, if it is a tensor of the queries' shape and device; one row would be broadcast silently.

    Raises ValueError otherwise. Nothing is read from the device, and a compiler sees constants.
    """
    if not isinstance(out, torch.Tensor):
        raise ValueError(f"attention returned {type(out).__name__} where a tensor {tuple(q.shape)} belongs")
    if out.shape != q.shape or out.device != q.device:
        raise ValueError(
            f"attention returned {tuple(out.shape)} on {out.device} where {tuple(q.shape)} on {q.device} belongs"
        )
    return out
