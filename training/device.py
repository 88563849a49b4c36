"""Where to render and train."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
import typer


def pick(asked: str) -> str:
    """`auto` is the GPU if there is one; a GPU that was asked for by name must be there."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the device is {asked!r}, but must be auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here, or torch was built without CUDA; take cpu")
    return asked


@lru_cache(maxsize=4)
def training_dtype(device: str) -> torch.dtype:
    """The dtype that autocast should use: bfloat16 where products in it are faster than in float32.

    On a CPU that has no products in bfloat16 they are several times slower, training with them ten times.
    """
    if device != "cpu":
        return torch.bfloat16
    seconds = {dtype: _products(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Products in ``dtype`` in this block; none are changed for float32."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def _products(dtype: torch.dtype, rounds: int = 20) -> float:
    """The shortest time, in seconds, of a product of the size that training has, forward and backward."""
    x = torch.randn(1024, 256, dtype=dtype, requires_grad=True)
    w = torch.randn(256, 1024, dtype=dtype, requires_grad=True)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        (x @ w).sum().backward()
        found.append(time.perf_counter() - start)
    return min(found)
