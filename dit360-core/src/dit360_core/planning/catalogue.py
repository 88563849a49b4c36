"""Every offer of every plugin, whether it can be used here, and if not, why and what helps."""

from __future__ import annotations

from typing import Any

import attrs

from dit360_core.planning.kernels import TYPICAL, try_kernels, typical_need
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import by_priority
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.offers import Need, QuantizationNeed, SchedulingNeed, TilingNeed
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.size import tokens_of
from dit360_core.system.machine import Machine


def listing(registry: Registry, machine: Machine, *, probe: bool = False) -> dict[str, Any]:
    """All offers with their verdicts, all plugin failures, all plugins that were switched off.

    Attention kernels of plugins that have nothing against this machine are tried on small data, in a process of their
    own; what the core itself offers is known to work.

    probe: the core's are tried too, and all of them are timed.
    """
    kernels = try_kernels(registry, machine, core=probe, timed=probe)
    offers = []
    for entry in (e for kind in KINDS for e in sorted(registry.entries(kind), key=by_priority)):
        attention = entry.kind == "attention"
        reasons = kernels[entry.address].reasons if attention else judge(entry, machine, need_of(entry.kind, machine))
        offers.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "family": entry.family,
                "distribution": entry.distribution,
                "version": entry.version,
                "priority": entry.offer.priority,
                "summary": entry.offer.summary,
                "available": not reasons,
                "reasons": [attrs.asdict(reason) for reason in reasons],
                **({"probe": kernels[entry.address].as_dict()} if probe and attention else {}),
            }
        )
    return {
        "device": machine.device,
        **({"probed": attrs.asdict(typical_need(machine))} if probe else {}),
        "offers": offers,
        "failures": [{**attrs.asdict(failure), "sentence": str(failure)} for failure in registry.failures],
        "disabled": list(registry.disabled),
    }


def need_of(kind: str, machine: Machine) -> Need | None:
    """What DiT360 itself would ask of a backend of a kind; None where nothing is asked, as of a model."""
    need = typical_need(machine)
    if kind == "attention":
        return need
    if kind == "quantization":
        return QuantizationNeed(device=machine.device, dtype=need.dtype)
    if kind == "scheduler":
        tokens = tokens_of(TYPICAL.width, TYPICAL.height, TYPICAL.circular_padding)
        return SchedulingNeed(steps=TYPICAL.steps, tokens=tokens)
    if kind == "tiling":
        return TilingNeed(device=machine.device, dtype=need.dtype, width=TYPICAL.width, height=TYPICAL.height)
    return None
