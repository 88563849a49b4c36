"""A pipeline of diffusers that somebody loaded becomes one of ours: checked, planned, and given our attention."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import attrs
import torch

from dit360_core.errors import InputError, named, remedy, setting
from dit360_core.models.architecture import DENOISER, Networks
from dit360_core.models.families import architecture_for
from dit360_core.models.lora.added import Added
from dit360_core.models.residency.placement import device_for, offloaded_by, place
from dit360_core.models.residency.residency import Residency
from dit360_core.models.shapes.shapes import Shapes
from dit360_core.models.weights.parts import quantize_loaded
from dit360_core.options import LoadOptions, build
from dit360_core.pipeline.state import Loaded, State
from dit360_core.planning.checks import check_loading, refuse_without_effect
from dit360_core.planning.kernels import Kernels, native_need, slicing_notes
from dit360_core.planning.plan import Plan, make_plan
from dit360_core.planning.quantization import choose_quantization
from dit360_core.plugins.offers import Attend, Model
from dit360_core.plugins.registry import Registry
from dit360_core.system.dtypes import precision_of
from dit360_core.system.machine import Machine

log = logging.getLogger("dit360")

_OPEN = ("attention_backend", "attention_slice_size", "offload", "compile_blocks", "strict")
_OPEN_FAMILIES = ("vae_", "quantization_")
"""Options, and beginnings of options, that a pipeline which is loaded already leaves open."""


@attrs.frozen(kw_only=True, eq=False)
class Adopted:
    """What was decided for a pipeline that is loaded already.

    asked: the options.
    foreign: how somebody else has offloaded it; none: nobody has.
    device: where it computes.
    """

    asked: LoadOptions
    plan: Plan
    kernels: Kernels
    attend: Attend
    quantizer: Any
    foreign: str
    device: torch.device
    machine: Machine


def adopt(pipe: Any, model: Model | None, registry: Registry, options: dict[str, Any]) -> Loaded:
    """A pipeline of diffusers, changed in place.

    pipe: of a family that is known.
    model: its defaults; None: those that such ones usually have.
    options: of :class:`~dit360_core.options.LoadOptions`, those that are open.

    Raises InputError for others, for a pipeline of no family, or for weights that are none.
    """
    asked = _asked(options)
    networks = architecture_for(pipe, registry).networks
    networks.check_given(pipe)
    decided = _decide(pipe, networks, model, registry, asked)
    for line in decided.plan.warnings():
        log.warning("%s", line)
    family, denoiser = networks.architecture, getattr(pipe, DENOISER)
    converted = quantize_loaded(
        networks,
        pipe,
        decided.quantizer,
        family.quantized_by(asked.quantization_parts),
        asked.quantization_skip,
    )
    networks.attach(denoiser, decided.attend, asked.attention_slice_size)
    if asked.compile_blocks:
        networks.compile(denoiser)
    if asked.offload != "none":
        place(pipe.to("cpu"), family, asked.offload, decided.device)
    residency = Residency(
        architecture=family, device=decided.device, offload=asked.offload, foreign=decided.foreign != "none"
    )
    engine = networks.open(
        pipe, device=decided.device, dtype=denoiser.dtype, residency=residency, config=denoiser.config
    )
    return Loaded(
        engine=engine,
        state=State(plan=decided.plan, quantized=converted),
        registry=registry,
        machine=decided.machine,
        kernels=decided.kernels,
        added=Added(networks=networks),
        make_shapes=partial(Shapes.of_pipeline, family, pipe),
    )


def _asked(options: dict[str, Any]) -> LoadOptions:
    """Raises InputError for options that the pipeline has decided already."""
    asked = build(LoadOptions, {"model": "given", **options})
    decided = sorted(name for name in options if name not in _OPEN and not name.startswith(_OPEN_FAMILIES))
    if decided:
        raise InputError(
            f"{', '.join(map(named, decided))} cannot be chosen here: the pipeline is loaded already; "
            f"{remedy('leave_out')}."
        )
    return asked


def _decide(pipe: Any, networks: Networks, model: Model | None, registry: Registry, asked: LoadOptions) -> Adopted:
    family, denoiser = networks.architecture, getattr(pipe, DENOISER)
    facts = family.facts_of(denoiser.config, pipe.config)
    if model is None:
        model = family.usual(Model(name="given", api=1, base="given", width=2048, height=1024), facts)
    # Where an offloaded pipeline computes, which is not where its weights rest.
    device = pipe._execution_device
    foreign = offloaded_by(pipe, family)
    if asked.offload != "none":
        device = device_for(pipe, family, device, asked.offload)
    machine = Machine.detect(device.type)
    check_loading(asked, machine, model)
    precision = precision_of(denoiser.dtype)
    need = native_need(model, machine, precision, (facts.heads, facts.head_dim), family.longest_prompt)
    kernels = Kernels(registry, machine, asked.strict)
    attention, attend = kernels.choose(asked.attention_backend, need)
    if asked.quantization_mode == "auto":
        raise InputError(
            f"{setting('quantization_mode', 'auto')} decides by files that are not loaded yet; name a mode, or none."
        )
    if asked.quantization_mode == "none":
        refuse_without_effect(asked, f"{named('quantization_mode')} is none")
    quantization, quantizer = choose_quantization(asked, registry, machine, precision)
    notes = slicing_notes(attention, registry, asked.attention_slice_size)
    plan = make_plan(
        asked,
        machine,
        model,
        precision,
        attention,
        quantization,
        notes,
        offload=asked.offload if foreign == "none" else foreign,
    )
    return Adopted(
        asked=asked, plan=plan, kernels=kernels, attend=attend, quantizer=quantizer, foreign=foreign, device=device,
        machine=machine,
    )  # fmt: skip
