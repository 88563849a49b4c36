"""From load options to a pipeline: first everything that can go wrong cheaply, then the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.attention import Kernels, native_need, slicing_notes
from dit360_core.checks import check_guidance, check_loading, check_names, check_request
from dit360_core.machine import Machine
from dit360_core.memory import told_when_full
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.pipeline import Pipeline
from dit360_core.plan import Plan, choose_quantization, make_plan
from dit360_core.precision import precision_for, torch_dtype
from dit360_core.registry import Registry, default_registry
from dit360_core.signature import takes

if TYPE_CHECKING:
    from dit360_core.offers import Attend

log = logging.getLogger("dit360")


@takes(LoadOptions)
def load(
    model: str = "tiny", *, registry: Registry | None = None, machine: Machine | None = None, **options: Any
) -> Pipeline:
    """Loads a model and decides which backends it runs on.

    Raises InputError (bad option, unknown name), ModelError (files), BackendUnavailable (reasons of every candidate),
    all before the weights are read.
    """
    asked = build(LoadOptions, {"model": model, **options})
    return prepare(asked, registry=registry or default_registry(), machine=machine).load()


@attrs.frozen(kw_only=True, eq=False)
class Prepared:
    """A pipeline whose files and backends are found and checked, and whose weights are not read yet."""

    plan: Plan
    folder: Path
    lora_file: Path | None
    kernels: Kernels
    attend: Attend
    quantizer: Any
    machine: Machine
    registry: Registry

    def load(self) -> Pipeline:
        """Reads the weights: load → fuse the LoRA → quantize → place or offload."""
        import torch

        from dit360_core.flux import lora as lora_files
        from dit360_core.flux.engine import Engine
        from dit360_core.flux.load import equip, load_pipeline

        plan = self.plan
        pipe = load_pipeline(self.folder, plan.precision)
        if self.lora_file is not None:
            changed = lora_files.fuse(pipe, self.lora_file, plan.lora_strength)
            plan = attrs.evolve(plan, lora_modules=changed)
        equip(pipe, self.quantizer, self.attend, plan.attention_slice_size)
        device = torch.device(plan.device)
        with told_when_full(f"the weights of {plan.options.model}", plan.device):
            if plan.offload == "model":
                pipe.enable_model_cpu_offload(device=device)
            elif plan.offload == "sequential":
                pipe.enable_sequential_cpu_offload(device=device)
            else:
                pipe.to(device)
        for line in plan.sentences():
            log.info("%s", line)
        for line in plan.warnings():
            log.warning("%s", line)
        engine = Engine(pipe=pipe, device=device, dtype=torch_dtype(plan.precision))
        return Pipeline(engine, plan, self.kernels, registry=self.registry, machine=self.machine)


def prepare(
    asked: LoadOptions,
    *,
    registry: Registry,
    machine: Machine | None = None,
    picture: tuple[SampleOptions, DecodeOptions] | None = None,
) -> Prepared:
    """Everything that can go wrong before the weights are read, in the order of its cost: downloads come last.

    picture: the options of a picture that is to be made at once, which are checked too.
    """
    from dit360_core.flux import load as model_files
    from dit360_core.flux import lora as lora_files
    from dit360_core.flux.files import existing

    model = check_names(
        asked,
        picture[0] if picture else None,
        registry,
        lambda name: existing(name) is not None,
        decoding=picture[1] if picture else None,
    )
    lora = asked.lora or model.lora
    folder = model_files.locate(model.base) if existing(model.base) else None
    lora_file = lora_files.locate(lora) if lora and existing(lora) else None

    machine = machine or Machine.detect(asked.device)
    precision = precision_for(asked, model, machine)
    check_loading(asked, machine, model)
    if picture:
        check_request(*picture, loading=asked, model=model, registry=registry, machine=machine, precision=precision)
    quantization, quantizer = choose_quantization(asked, registry, machine, precision)
    if lora and lora_file is None:
        lora_file = lora_files.locate(lora)
    if folder is None:
        folder = model_files.locate(model.base)

    heads, head_dim, takes_guidance = model_files.transformer_shape(folder)
    if picture:
        check_guidance(picture[0], takes_guidance)
    need = native_need(model, machine, precision, heads, head_dim)
    kernels = Kernels(registry, machine, asked.strict)
    attention, attend = kernels.choose(asked.attention_backend, need)
    return Prepared(
        plan=make_plan(
            asked,
            machine,
            model,
            precision,
            attention,
            quantization,
            slicing_notes(attention, registry, asked.attention_slice_size),
        ),
        folder=folder,
        lora_file=lora_file,
        kernels=kernels,
        attend=attend,
        quantizer=quantizer,
        machine=machine,
        registry=registry,
    )
