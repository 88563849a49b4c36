"""Reads a model's weights as a plan has them: each layer is loaded, given its LoRA, quantized, and placed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import InputError
from dit360_core.models.residency.offloads import BY_BLOCKS, EVICTED
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.planning.kernels import Kernels
from dit360_core.planning.plan import Plan
from dit360_core.plugins.registry import Registry
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import give_back_freed_memory, told_when_full

if TYPE_CHECKING:
    import torch

    from dit360_core.models.lora.beside import Strength
    from dit360_core.models.lora.fusing import Applied
    from dit360_core.models.residency.residency import Host
    from dit360_core.models.weights.conversion import Converted
    from dit360_core.models.weights.store import Stored
    from dit360_core.models.weights.stream import Quantizing
    from dit360_core.plugins.offers import Attend
    from dit360_core.system.recording import Recorder

log = logging.getLogger("dit360")


@attrs.frozen(kw_only=True, eq=False)
class Prepared:
    """A pipeline whose files and backends are found and checked, and whose weights are not read yet.

    lora_files: name of each LoRA → its file. quantizer: None if nothing is to be quantized. stored: the parts that are
    stored quantized, which it restores. host: see :class:`dit360_core.models.residency.residency.Residency`; weights
    are read into system memory and left there for it.
    """

    plan: Plan
    folder: Path
    lora_files: Mapping[str, Path]
    kernels: Kernels
    attend: Attend
    quantizer: Any
    stored: Mapping[str, Stored]
    machine: Machine
    registry: Registry
    host: Host | None = None

    def load(self, recorder: Recorder | None = None) -> Pipeline:
        """Reads the weights, but for the parts that are to be evicted, and makes a pipeline of them."""
        import torch

        from dit360_core.models.flux.engine import Engine
        from dit360_core.models.flux.folder import WEIGHTS
        from dit360_core.models.flux.load import assemble_pipeline
        from dit360_core.models.lora.fusing import check_kept
        from dit360_core.models.residency.placement import place, place_part
        from dit360_core.models.residency.residency import Residency
        from dit360_core.models.shapes.shapes import Shapes
        from dit360_core.models.weights.stream import empty

        plan = self.plan
        device, dtype = torch.device(plan.device), torch_dtype(plan.precision)
        later = EVICTED[plan.options.evict]
        with told_when_full(f"the weights of {plan.options.model}", plan.device):
            loras = self.loras()
            parts, converted = self.read([name for name in WEIGHTS if name not in later], loras)
            pipe = assemble_pipeline(self.folder, {**dict.fromkeys(later), **parts})
            plan = told_of(attrs.evolve(plan, quantized=converted), loras)
            strengths = [applied.shared for applied in loras]
            del loras  # whose factors are in the weights by now, or beside them
            if self.host is None or plan.offload in ("model", "sequential"):
                place(pipe, plan.offload, device)
            else:
                for name in BY_BLOCKS.get(plan.offload, ()):
                    if getattr(pipe, name) is not None:
                        place_part(name, getattr(pipe, name), plan.offload, device)
            give_back_freed_memory("cpu")  # of loading, which would be missing from the first picture
        for line in plan.sentences():
            log.info("%s", line)
        for line in plan.warnings():
            log.warning("%s", line)
        pipeline: Pipeline

        def again(name: str) -> Any:
            now = attrs.evolve(self, plan=pipeline.plan)
            again_read = now.loras(strengths) if name != "vae" else ()
            parts, converted = now.read([name], again_read)
            pipeline.told_of(converted, check_kept(again_read, converted))
            if name == "transformer":
                pipeline.put_added_onto(parts[name])
            return parts[name]

        residency = Residency(evict=plan.options.evict, offload=plan.offload, device=device, read=again, host=self.host)
        transformer = (
            pipe.transformer if "transformer" not in later else empty("transformer", self.folder / "transformer")
        )
        engine = Engine(pipe=pipe, device=device, dtype=dtype, config=transformer.config, residency=residency)
        pipeline = Pipeline(
            engine,
            plan,
            self.kernels,
            lora_strengths=strengths if plan.lora_mode == "adapter" else None,
            registry=self.registry,
            machine=self.machine,
            shapes=lambda: Shapes.of_folder(self.folder),
            recorder=recorder,
        )
        return pipeline

    def read(self, names: Collection[str], loras: Sequence[Applied]) -> tuple[dict[str, Any], tuple[Converted, ...]]:
        """Parts on the CPU (quantized ones where they rest), ready to be placed, and what became of those quantized."""
        import torch

        from dit360_core.models.flux.load import attach, compile_blocks, load_parts
        from dit360_core.models.lora.beside import put_beside
        from dit360_core.models.lora.fusing import fuse

        plan = self.plan
        fused = tuple(loras) if plan.lora_mode == "fuse" else ()
        done, converted = self._quantized(names, fused)
        parts = load_parts(self.folder, plan.precision, names, done)
        for name, part in parts.items():
            if name not in done:
                fuse(part, name, fused)
            if plan.lora_mode == "adapter":
                like = torch.empty(0, dtype=torch_dtype(plan.precision), device=self._home())
                for applied in loras:
                    put_beside(part, name, applied.lora, applied.shared, like)
        transformer = parts.get("transformer")
        if transformer is not None:
            attach(transformer, self.attend, plan.attention_slice_size)
            if plan.options.compile_blocks:
                compile_blocks(transformer)
        return parts, converted

    def _quantized(
        self, names: Collection[str], loras: tuple[Applied, ...]
    ) -> tuple[dict[str, Any], tuple[Converted, ...]]:
        """The parts that are quantized while they are loaded, or stored so."""
        import torch

        from dit360_core.models.weights.store import restore_part
        from dit360_core.models.weights.stream import load_part, survey

        if self.quantizer is None:
            return {}, ()
        dtype, device = torch_dtype(self.plan.precision), torch.device(self.plan.device)
        home = self._home()
        done = {
            name: restore_part(stored, self.folder / name, self.quantizer.restore, dtype, device=device, home=home)
            for name, stored in self.stored.items()
            if name in names
        }
        # What is stored in full is quantized as well if a mode was named, and left as it is stored if none was.
        if not self.stored or self.plan.options.quantization_mode != "none":
            how = self.quantizing(loras, home)
            wanted = survey(self.folder, how)
            done |= {name: load_part(part, how, dtype) for name, part in wanted.items() if name in names}
        return {name: module for name, (module, _) in done.items()}, tuple(told for _, told in done.values())

    def _home(self) -> torch.device:
        """Where weights rest."""
        import torch

        return torch.device(self.plan.device if self.plan.offload == "none" and self.host is None else "cpu")

    def loras(self, strengths: Sequence[Strength] | None = None) -> tuple[Applied, ...]:
        """The LoRAs as far as they belong to this model, read from their files.

        strengths: of each; None: those that were asked for. Raises ModelError for one that does not fit, or InputError
        for one that would be fused into weights that are stored quantized.
        """
        from dit360_core.models.flux.lora_names import IN_WORDS
        from dit360_core.models.lora.beside import Strength
        from dit360_core.models.lora.fitting import fitted, read
        from dit360_core.models.lora.fusing import Applied
        from dit360_core.models.weights.stream import empty

        modules: dict[str, Any] = {}
        found = []
        shared = strengths or [Strength(lora.strength) for lora in self.plan.loras]
        for given, strength in zip(self.plan.loras, shared, strict=True):
            file = read(self.lora_files[given.name])
            for part in sorted(file.parts - set(modules)):
                modules[part] = empty(part, self.folder / part)
            lora = fitted(file, modules)
            if self.plan.lora_mode == "adapter":
                lora.check_beside()
            for part in lora.layers:
                if part in self.stored and self.plan.lora_mode == "fuse":
                    raise InputError(
                        f"{file.file} changes {IN_WORDS[part]}, which is stored as {self.stored[part].mode}, and no "
                        "LoRA can be fused into rounded weights; use lora_mode=adapter, or quantize the original model "
                        "with this LoRA."
                    )
            found.append(Applied(lora=lora, shared=strength))
        return tuple(found)

    def check_lora(self, name: str) -> None:
        """Raises InputError or ModelError unless this is a LoRA that can be put beside the model once it is loaded."""
        from dit360_core.models.lora.added import check_addable, fitted_to
        from dit360_core.models.lora.fitting import locate
        from dit360_core.models.weights.stream import empty

        check_addable(self.plan.offload)
        fitted_to(locate(name), empty("transformer", self.folder / "transformer"))

    def quantizing(self, loras: tuple[Applied, ...], home: torch.device) -> Quantizing:
        """How the weights are quantized on their way, and where they then rest."""
        import torch

        from dit360_core.models.flux.layers import parts_of
        from dit360_core.models.weights.stream import Quantizing

        options = self.plan.options
        return Quantizing(
            implementation=self.quantizer,
            parts=tuple(part for part in parts_of(options.quantization_parts) if part not in self.stored),
            device=torch.device(self.plan.device),
            home=home,
            skip=options.quantization_skip,
            loras=loras,
        )


def told_of(plan: Plan, loras: Sequence[Applied]) -> Plan:
    """The plan with what became of each LoRA, and what is to be said of them."""
    from dit360_core.models.lora.fusing import check_kept

    found = tuple(
        attrs.evolve(given, modules=one.lora.modules, used=one.lora.used, tensors=one.lora.tensors)
        for given, one in zip(plan.loras, loras, strict=True)
    )
    remarks = tuple(remark for one in loras for remark in one.lora.remarks)
    return attrs.evolve(
        plan, loras=found, lora_kept=check_kept(loras, plan.quantized), notes=(*plan.notes, *remarks)
    )  # fmt: skip
