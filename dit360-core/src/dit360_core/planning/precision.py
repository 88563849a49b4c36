"""Which numbers to compute with where nobody says it."""

from __future__ import annotations

from dit360_core.options import LoadOptions
from dit360_core.plugins.offers import Model
from dit360_core.system.machine import Machine


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
