"""What a plugin may offer, how plugins are found, and which offer is chosen.

For authors of plugins this is the one door: all that a plugin needs is here, and nothing else of the core is promised
to stay. The tests that it inherits are in :mod:`dit360_core.testing`. Importing this imports no torch::

    from dit360_core.plugins import AttentionBackend, Reason, hookimpl
"""

from __future__ import annotations

from dit360_core.errors import REASON_CODES, InputError, ModelError, Reason, named, remedy, setting
from dit360_core.plugins.bias import as_mask
from dit360_core.plugins.embedded import EMBEDDED_MODEL
from dit360_core.plugins.hookspecs import hookimpl
from dit360_core.plugins.offers import (
    PLUGIN_API,
    Attend,
    AttentionBackend,
    AttentionNeed,
    FlowModel,
    LayerNeed,
    Model,
    ModelFamily,
    Offer,
    QuantizationNeed,
    Quantizer,
    QuantizerImplementation,
    Scheduler,
    SchedulerImplementation,
    SchedulerSettings,
    SchedulingNeed,
    Tiling,
    TilingImplementation,
    TilingNeed,
    TilingSettings,
    TimeShift,
    WeightsFormat,
    WrittenForm,
)
from dit360_core.plugins.spacing import noise_levels
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine

__all__ = [
    "EMBEDDED_MODEL",
    "PLUGIN_API",
    "REASON_CODES",
    "Attend",
    "AttentionBackend",
    "AttentionNeed",
    "FlowModel",
    "InputError",
    "LayerNeed",
    "Machine",
    "Model",
    "ModelError",
    "ModelFamily",
    "Offer",
    "QuantizationNeed",
    "Quantizer",
    "QuantizerImplementation",
    "Reason",
    "Scheduler",
    "SchedulerImplementation",
    "SchedulerSettings",
    "SchedulingNeed",
    "Tiling",
    "TilingImplementation",
    "TilingNeed",
    "TilingSettings",
    "TimeShift",
    "WeightsFormat",
    "WrittenForm",
    "as_mask",
    "hookimpl",
    "named",
    "noise_levels",
    "remedy",
    "setting",
    "torch_dtype",
]
