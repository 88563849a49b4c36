"""The numbers to compute with, by name: fp32, bf16, fp16 (and fp64, for proofs in tests)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KNOWN = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
"""torch's names → ours."""


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a precision's name. Imports torch.

    precision: fp32, bf16, fp16 or fp64, as needs say it.

    Raises KeyError for any other.
    """
    import torch

    return {short: getattr(torch, name) for name, short in KNOWN.items()}[precision]  # type: ignore[no-any-return]


def precision_of(dtype: torch.dtype) -> str:
    """The name of a dtype that is one of :data:`KNOWN`."""
    return KNOWN[str(dtype).removeprefix("torch.")]
