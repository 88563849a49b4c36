"""What the tests that plugins inherit say when one fails: what is off, by how much, and what is allowed."""

from __future__ import annotations

import math
from typing import Any

import torch


def within(off: float, allowed: float, what: str, about: Any = "") -> None:
    """Raises AssertionError unless ``off``, from what is right, is at most ``allowed``.

    about: in which case.
    """
    assert off <= allowed, (
        f"{what} is off by {off:.3g}, where {allowed:.3g} is allowed{_of(about)}"
        if math.isfinite(off)
        else f"{what} holds numbers that are not finite{_of(about)}"
    )


def same(found: torch.Tensor, right: torch.Tensor, what: str, about: Any = "") -> None:
    """Raises AssertionError unless two tensors are the same to the last bit."""
    shaped(found, right, what, about)
    differ = int((found != right).sum())
    assert not differ, (
        f"{what}: {differ} of {right.numel()} numbers differ, by up to {_distance(found, right):.3g}, and none may"
        f"{_of(about)}"
    )


def shaped(found: Any, right: torch.Tensor, what: str, about: Any = "") -> None:
    """Raises AssertionError unless ``found`` is a tensor of the shape and dtype of ``right``."""
    assert isinstance(found, torch.Tensor), f"{what}: {type(found).__name__} where a tensor belongs{_of(about)}"
    told = f"{tuple(found.shape)} {found.dtype} where {tuple(right.shape)} {right.dtype} belongs"
    assert (found.shape, found.dtype) == (right.shape, right.dtype), f"{what}: {told}{_of(about)}"


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _of(about: Any) -> str:
    return f" ({about})" if about != "" else ""
