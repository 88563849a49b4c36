"""The product of layers that keep their weights in fewer bits and turn them back for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear as multiply

_PIECE = {"cpu": 2**21}
"""Weights that are turned back at once, if not all: on a CPU as many as stay in its cache, which is ten times faster
for one token."""


def multiply_turned_back(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    turn_back: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """``(…, in) -> (…, out)`` in the dtype of x. weight ``(out, in)`` as it is stored, bias ``(out,)`` or None.

    turn_back: (some rows of the weights, their scales ``(rows,)`` fp32) → scale · weight, ``(rows, in)`` fp32. It is
    the weights that are scaled, not the product, which overflows in fp16; in fp32, since scales are too small for fp16.
    """
    if x.device.type not in _PIECE:
        return multiply(x, turn_back(weight, scale).to(x.dtype), bias)
    rows = max(1, _PIECE[x.device.type] // weight.shape[1])
    out = x.new_empty(*x.shape[:-1], len(scale))
    pieces = zip(torch.split(weight, rows), torch.split(scale, rows), torch.split(out, rows, -1), strict=True)
    for some, scales, into in pieces:
        into.copy_(multiply(x, turn_back(some, scales).to(x.dtype)))
    return out if bias is None else out.add_(bias)
