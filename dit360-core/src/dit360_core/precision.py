"""The numbers to compute with, by name: fp32, bf16, fp16 (and fp64, for proofs in tests)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit360_core.machine import Machine
from dit360_core.offers import Model
from dit360_core.options import LoadOptions

if TYPE_CHECKING:
    import torch

KNOWN = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
"""torch's names → ours."""


def precision_for(options: LoadOptions, model: Model, machine: Machine) -> str:
    """fp32, bf16 or fp16. ``auto``: the model's own wish, else what this device multiplies in hardware."""
    if options.precision != "auto":
        return options.precision
    if model.precision != "auto":
        return model.precision
    if machine.fast_bfloat16:
        return "bf16"
    # bfloat16 and float16 run six to eight times slower than float32 on a CPU without instructions for them.
    return "fp32" if machine.device == "cpu" else "fp16"


def torch_dtype(precision: str) -> torch.dtype:
    """The dtype of a precision's name."""
    import torch

    return {short: getattr(torch, name) for name, short in KNOWN.items()}[precision]  # type: ignore[no-any-return]


def precision_of(dtype: torch.dtype) -> str:
    """The name of a dtype that is one of :data:`KNOWN`."""
    return KNOWN[str(dtype).removeprefix("torch.")]
