"""What choosing a quantization asks of layers: whether a quantizer works on one, and what those of a model weigh."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import torch

from dit360_core.errors import Dit360Error, Reason
from dit360_core.models.families import architecture_of
from dit360_core.models.weights.conversion import NotQuantized, convert
from dit360_core.models.weights.selection import selections
from dit360_core.models.weights.store import weights_of
from dit360_core.options import LoadOptions
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.plugins.registry import Registry
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.memory import free_memory

_SHARE_FOR_WEIGHTS = 0.75
"""Of free memory; the rest is for what a step and the autoencoder need."""


def try_quantizer(implementation: Any, need: QuantizationNeed) -> Iterable[Reason]:
    """Tries a quantizer on a small layer where it is to run: why it cannot be used, or nothing."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(128, 256)
    for tensor in (linear.weight.data, linear.bias.data):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    try:
        convert(linear.to(need.device, torch_dtype(need.dtype)), implementation, name="of a trial", one_token=False)
    except NotQuantized as error:
        yield Reason("probe_failed", f"in a trial {error.why}")
    except Dit360Error as error:
        yield Reason("probe_failed", f"a trial failed: {error.sentence.rstrip('.')}")


def with_sizes(
    need: QuantizationNeed, options: LoadOptions, folder: Path, precision: str, registry: Registry
) -> QuantizationNeed:
    """The need with what a model's weights take together, and the memory that is there for them.

    registry: whose plugins know the model's family.
    """
    if options.offload in ("sequential", "group", "disk"):
        return need  # layer by layer, or block by block, anything fits
    family = architecture_of(folder, registry)
    itemsize = torch_dtype(precision).itemsize
    every = {part: family.networks.empty(part, folder / part) for part in family.names}
    modules = {part: every[part] for part in family.quantized_by(options.quantization_parts)}
    found = selections(modules, options.quantization_skip, family.networks.policy)
    chosen = {part: selection.layers for part, selection in found.items()}
    sizes = tuple(weights_of(every[part], chosen.get(part, ()), itemsize) for part in family.names)
    if options.offload == "none":
        sizes = ((sum(weights for weights, _ in sizes), sum(others for _, others in sizes)),)
    return attrs.evolve(need, sizes=sizes, budget=int(_SHARE_FOR_WEIGHTS * free_memory(need.device)))
