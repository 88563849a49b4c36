"""From load options to a pipeline: first everything that can go wrong cheaply, then the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.attention import Kernels, native_need, slicing_notes
from dit360_core.checks import check_guidance, check_loading, check_names, check_request, refuse_without_effect
from dit360_core.machine import Machine
from dit360_core.memory import told_when_full
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.pipeline import Pipeline
from dit360_core.plan import Plan, make_plan
from dit360_core.precision import precision_for, torch_dtype
from dit360_core.quantization import check_stored, choose_quantization, choose_stored
from dit360_core.registry import Registry, default_registry
from dit360_core.signature import takes

if TYPE_CHECKING:
    import torch

    from dit360_core.conversion import Converted
    from dit360_core.flux.lora import Lora
    from dit360_core.flux.store import Stored
    from dit360_core.flux.stream import Quantizing
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
    """A pipeline whose files and backends are found and checked, and whose weights are not read yet.

    quantizer: None if nothing is to be quantized. stored: the parts that are stored quantized, which it restores.
    """

    plan: Plan
    folder: Path
    lora_file: Path | None
    kernels: Kernels
    attend: Attend
    quantizer: Any
    stored: Mapping[str, Stored]
    machine: Machine
    registry: Registry

    def load(self) -> Pipeline:
        """Reads the weights: each layer is loaded, given its LoRA and quantized; then all are placed or offloaded."""
        import torch

        from dit360_core.flux import lora as lora_files
        from dit360_core.flux.beside import put_beside
        from dit360_core.flux.engine import Engine
        from dit360_core.flux.load import attach, load_pipeline

        plan = self.plan
        device, dtype = torch.device(plan.device), torch_dtype(plan.precision)
        lora = self.lora()
        fused = lora if plan.lora_mode == "fuse" else None
        strength = None
        with told_when_full(f"the weights of {plan.options.model}", plan.device):
            parts, converted = self._quantized(fused)
            pipe = load_pipeline(self.folder, plan.precision, parts)
            if fused is not None:
                if "transformer" not in parts:
                    lora_files.fuse(pipe, fused, plan.lora_strength)
                lora_files.fuse_text_encoder(pipe, fused, plan.lora_strength)
            elif lora is not None:
                like = torch.empty(0, dtype=dtype, device=device if plan.offload == "none" else "cpu")
                strength = put_beside(pipe.transformer, lora, plan.lora_strength, like)
            if lora is not None:
                kept = lora_files.check_kept(lora, converted)
                plan = attrs.evolve(plan, lora_modules=len(lora.layers), lora_kept=kept)
            plan = attrs.evolve(plan, quantized=converted)
            attach(pipe, self.attend, plan.attention_slice_size)
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
        engine = Engine(pipe=pipe, device=device, dtype=dtype)
        return Pipeline(
            engine, plan, self.kernels, lora_strength=strength, registry=self.registry, machine=self.machine
        )

    def _quantized(self, lora: Lora | None) -> tuple[dict[str, Any], tuple[Converted, ...]]:
        """The parts that are quantized while they are loaded, or stored so."""
        import torch

        from dit360_core.flux.store import restore_part
        from dit360_core.flux.stream import load_part, survey

        if self.quantizer is None:
            return {}, ()
        dtype, device = torch_dtype(self.plan.precision), torch.device(self.plan.device)
        home = device if self.plan.offload == "none" else torch.device("cpu")
        done = {
            name: restore_part(stored, self.folder / name, self.quantizer.restore, dtype, device=device, home=home)
            for name, stored in self.stored.items()
        }
        # What is stored in full is quantized as well if a mode was named, and left as it is stored if none was.
        if not self.stored or self.plan.options.quantization_mode != "none":
            how = self.quantizing(lora, home)
            done |= {name: load_part(part, how, dtype) for name, part in survey(self.folder, how).items()}
        return {name: module for name, (module, _) in done.items()}, tuple(told for _, told in done.values())

    def lora(self) -> Lora | None:
        """The LoRA as far as it belongs to this transformer. Raises ModelError if it does not."""
        from dit360_core.flux.lora import read
        from dit360_core.flux.stream import empty

        if self.lora_file is None:
            return None
        return read(self.lora_file).fitted(empty("transformer", self.folder / "transformer"))

    def quantizing(self, lora: Lora | None, home: torch.device) -> Quantizing:
        """How the weights are quantized on their way, and where they then rest."""
        import torch

        from dit360_core.flux.layers import parts_of
        from dit360_core.flux.stream import Quantizing

        options = self.plan.options
        return Quantizing(
            implementation=self.quantizer,
            parts=tuple(part for part in parts_of(options.quantization_parts) if part not in self.stored),
            device=torch.device(self.plan.device),
            home=home,
            skip=options.quantization_skip,
            lora=lora,
            strength=options.lora_strength,
        )


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
    from dit360_core.flux.files import existing, remembered_lora, with_settings

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
    if folder is not None:
        model = with_settings(model, folder)

    machine = machine or Machine.detect(asked.device)
    precision = precision_for(asked, model, machine)
    check_loading(asked, machine, model)
    if picture:
        check_request(*picture, loading=asked, model=model, registry=registry, machine=machine, precision=precision)
    chosen = None
    if asked.quantization_mode not in ("auto", "none"):
        chosen = choose_quantization(asked, registry, machine, precision, lora=bool(lora))
    if lora and lora_file is None:
        lora_file = lora_files.locate(lora)
    if folder is None:
        folder = model_files.locate(model.base)
        model = with_settings(model, folder)

    heads, head_dim, takes_guidance = model_files.transformer_shape(folder)
    if picture:
        check_guidance(picture[0], takes_guidance)

    from dit360_core.flux.store import stored_parts  # imports torch, which nothing above needs

    stored = stored_parts(folder)
    if stored:
        check_stored(asked, bool(lora), stored)
        first = next(iter(stored.values()))
        quantization, quantizer = choose_stored(first, asked, registry, machine, precision, lora=bool(lora))
    else:
        if asked.quantization_mode == "none":
            refuse_without_effect(asked, "quantization_mode is none")
        quantization, quantizer = chosen or choose_quantization(
            asked, registry, machine, precision, folder=folder, lora=bool(lora)
        )
    fused_before = remembered_lora(folder)
    twice = []
    if lora and fused_before:
        twice.append(f"{asked.model} already holds the LoRA {fused_before['from']}; {lora} comes on top of it")
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
            [*slicing_notes(attention, registry, asked.attention_slice_size), *twice],
            fused_before=fused_before,
        ),
        folder=folder,
        lora_file=lora_file,
        kernels=kernels,
        attend=attend,
        quantizer=quantizer,
        stored=stored,
        machine=machine,
        registry=registry,
    )
