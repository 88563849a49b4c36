"""A model whose files and backends are found: its weights are read as the plan has them, now and when evicted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from dit360_core.errors import InputError, setting
from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture
from dit360_core.models.lora.added import Added, check_addable, fitted_to
from dit360_core.models.lora.beside import Strength, put_beside
from dit360_core.models.lora.file import read
from dit360_core.models.lora.finding import locate
from dit360_core.models.lora.fitting import fitted
from dit360_core.models.lora.fusing import Applied, Fusion, check_kept, fuse
from dit360_core.models.residency.placement import place, place_part
from dit360_core.models.residency.residency import Host, Residency
from dit360_core.models.shapes.shapes import Shapes
from dit360_core.models.weights.conversion import Converted
from dit360_core.models.weights.files import ModelFiles
from dit360_core.models.weights.forms.kept import Kept, load_kept
from dit360_core.models.weights.forms.manifest import bytes_of_weights
from dit360_core.models.weights.parts import load_parts
from dit360_core.models.weights.progress import reading
from dit360_core.models.weights.store import Stored, restore_part
from dit360_core.models.weights.stream import Quantizing, load_part, survey
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.state import Loaded, State
from dit360_core.planning.kernels import Kernels
from dit360_core.planning.plan import Plan
from dit360_core.plugins.registry import Registry
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import explain_full_memory, give_back_freed_memory

if TYPE_CHECKING:
    from dit360_core.plugins.offers import Attend
    from dit360_core.system.recording import Recorder

log = logging.getLogger("dit360")


@attrs.frozen(kw_only=True, eq=False)
class Prepared:
    """A pipeline whose files and backends are found and checked, and whose weights are not read yet.

    plan: what was decided.
    architecture: the model's family.
    files: the model's folder, which lives as long as this does.
    lora_files: name of each LoRA → its file.
    kernels: of attention, with the one that was chosen loaded.
    attend: that one.
    quantizer: what quantizes or restores weights; None: nothing is to be done.
    stored: the parts that are stored quantized, which it restores.
    kept: the parts that stay as their files have them.
    host: who shares the device; weights are read into system memory and left there for it.
    """

    plan: Plan
    architecture: Architecture
    files: ModelFiles
    lora_files: Mapping[str, Path]
    kernels: Kernels
    attend: Attend
    quantizer: Any
    stored: Mapping[str, Stored]
    kept: Mapping[str, Kept]
    machine: Machine
    registry: Registry
    host: Host | None = None

    @property
    def folder(self) -> Path:
        """The model's."""
        return self.files.folder

    # ---------------------------------------------------------------------------------------------------------- loading

    def load(self, recorder: Recorder | None = None) -> Pipeline:
        """Reads the weights, but for the parts that are to be evicted, and makes a pipeline of them.

        recorder: measures every picture's phases.
        """
        plan, networks = self.plan, self.architecture.networks
        device = torch.device(plan.device)
        later = self.architecture.evicted(plan.options.evict)
        with explain_full_memory(f"the weights of {plan.options.model}", plan.device):
            loras = self.loras()
            parts, converted = self.read([name for name in self.architecture.names if name not in later], loras)
            pipe = networks.assemble(self.folder, {**dict.fromkeys(later), **parts})
            state = state_of(plan, loras, converted)
            strengths = [applied.shared for applied in loras]
            del loras  # whose factors are in the weights by now, or beside them
            self._place(pipe, device)
            give_back_freed_memory("cpu")  # of loading, which would be missing from the first picture
        for line in state.sentences():
            log.info("%s", line)
        for line in state.warnings():
            log.warning("%s", line)
        added = Added(networks=networks)
        residency = Residency(
            architecture=self.architecture, evict=plan.options.evict, offload=plan.offload, device=device,
            host=self.host,
        )  # fmt: skip
        denoiser = parts[DENOISER] if DENOISER in parts else networks.empty(DENOISER, self.folder / DENOISER)
        engine = networks.open(
            pipe, device=device, dtype=torch_dtype(plan.precision), residency=residency, config=denoiser.config
        )
        loaded = Loaded(
            engine=engine, state=state, registry=self.registry, machine=self.machine, kernels=self.kernels, added=added,
            make_shapes=partial(Shapes.of_files, self.architecture, self.files), kept=self.kept,
        )  # fmt: skip
        residency.read = partial(self._read_again, loaded, strengths)
        if recorder is not None:
            engine.recorders.append(recorder)
        return Pipeline(loaded, lora_strengths=strengths if plan.lora_mode == "adapter" else None)

    def _place(self, pipe: Any, device: torch.device) -> None:
        """Puts weights where they are to wait; what the host moves is left in system memory."""
        offload = self.plan.offload
        if self.host is None or offload in ("model", "sequential"):
            place(pipe, self.architecture, offload, device)
            return
        for name in self.architecture.by_blocks(offload):
            if getattr(pipe, name) is not None:
                place_part(self.architecture, name, getattr(pipe, name), offload, device)

    def _read_again(self, loaded: Loaded, strengths: Sequence[Strength], name: str) -> Any:
        """A part that was evicted, with the LoRAs at their strengths now and those that were added since."""
        # Where weights rest and how attention is sliced may have changed since.
        plan = attrs.evolve(
            self.plan, offload=loaded.state.offload, attention_slice_size=loaded.state.attention_slice_size
        )
        loras = self.loras(strengths) if name != AUTOENCODER else ()
        parts, converted = attrs.evolve(self, plan=plan).read([name], loras)
        loaded.state.reread(converted, check_kept(loras, converted))
        if name == DENOISER:
            part, engine = parts[name], loaded.engine
            loaded.added.onto(part, engine.config, engine.like_factors(part))
        return parts[name]

    # ---------------------------------------------------------------------------------------------------------- reading

    def read(self, names: Collection[str], loras: Sequence[Applied]) -> tuple[dict[str, Any], tuple[Converted, ...]]:
        """Parts on the CPU (quantized ones where they rest), ready to be placed, and what became of those quantized."""
        plan, networks = self.plan, self.architecture.networks
        fused = tuple(loras) if plan.lora_mode == "fuse" else ()
        with reading({name: bytes_of_weights(self.folder / name) for name in names}):
            done, converted = self._quantized(names, fused)
            parts = load_parts(networks, self.folder, plan.precision, names, done)
        for name, part in parts.items():
            if name not in done:
                fuse(part, name, fused)
            # What a file has in fewer bits takes nothing into it.
            if plan.lora_mode == "adapter" or name in self.kept:
                like = torch.empty(0, dtype=torch_dtype(plan.precision), device=self._home())
                for applied in loras:
                    put_beside(part, name, applied.lora, applied.shared, like)
        denoiser = parts.get(DENOISER)
        if denoiser is not None:
            networks.attach(denoiser, self.attend, plan.attention_slice_size)
            if plan.options.compile_blocks:
                networks.compile(denoiser)
        return parts, converted

    def _quantized(
        self, names: Collection[str], loras: tuple[Applied, ...]
    ) -> tuple[dict[str, Any], tuple[Converted, ...]]:
        """The parts that are quantized while they are loaded, or stored so."""
        dtype, device, home = torch_dtype(self.plan.precision), torch.device(self.plan.device), self._home()
        networks = self.architecture.networks
        done = {
            name: load_kept(networks, kept, self.folder / name, dtype, home=home)
            for name, kept in self.kept.items()
            if name in names
        }
        restore = self.quantizer.restore if self.stored else None
        done |= {
            name: restore_part(networks, stored, self.folder / name, restore, dtype, device=device, home=home)
            for name, stored in self.stored.items()
            if name in names
        }
        # What is stored in full is quantized as well if a mode was named, and left as it is stored if none was.
        if self.quantizer is not None and (not self.stored or self.plan.options.quantization_mode != "none"):
            how = self.quantizing(loras, home)
            wanted = survey(self.folder, how)
            done |= {name: load_part(part, how, dtype) for name, part in wanted.items() if name in names}
        return {name: module for name, (module, _) in done.items()}, tuple(told for _, told in done.values())

    def _home(self) -> torch.device:
        """Where weights rest."""
        return torch.device(self.plan.device if self.plan.offload == "none" and self.host is None else "cpu")

    def quantizing(self, loras: tuple[Applied, ...], home: torch.device) -> Quantizing:
        """How the weights are quantized on their way.

        loras: fused into them first.
        home: where they then rest.
        """
        options = self.plan.options
        wanted = self.architecture.quantized_by(options.quantization_parts)
        return Quantizing(
            networks=self.architecture.networks,
            implementation=self.quantizer,
            parts=tuple(part for part in wanted if part not in self.stored and part not in self.kept),
            device=torch.device(self.plan.device),
            home=home,
            skip=options.quantization_skip,
            additions=Fusion(loras) if loras else None,
        )

    # ------------------------------------------------------------------------------------------------------------ LoRAs

    def loras(self, strengths: Sequence[Strength] | None = None) -> tuple[Applied, ...]:
        """The LoRAs as far as they belong to this model, read from their files.

        strengths: of each; None: those that were asked for.

        Raises ModelError for one that does not fit, or InputError for one that would be fused into weights that are
        stored quantized.
        """
        modules: dict[str, Any] = {}
        found = []
        shared = strengths or [Strength(lora.strength) for lora in self.plan.loras]
        for given, strength in zip(self.plan.loras, shared, strict=True):
            file = read(self.lora_files[given.name], self.architecture)
            for part in sorted(file.parts - set(modules)):
                modules[part] = self.architecture.networks.empty(part, self.folder / part)
            lora = fitted(file, modules)
            if self.plan.lora_mode == "adapter" or set(lora.layers) & set(self.kept):
                lora.check_beside()
            for part in lora.layers:
                if part in self.stored and self.plan.lora_mode == "fuse":
                    raise InputError(
                        f"{file.file} changes {self.architecture.part(part).short}, which is stored as "
                        f"{self.stored[part].mode}, and no LoRA can be fused into rounded weights; use "
                        f"{setting('lora_mode', 'adapter')}, or quantize the original model with this LoRA."
                    )
            found.append(Applied(lora=lora, shared=strength))
        return tuple(found)

    def check_lora(self, name: str) -> None:
        """Raises InputError or ModelError unless this is a LoRA that can be put beside the model once it is loaded."""
        check_addable(self.plan.offload)
        denoiser = self.architecture.networks.empty(DENOISER, self.folder / DENOISER)
        fitted_to(locate(name), denoiser, self.architecture)


def state_of(plan: Plan, loras: Sequence[Applied], converted: tuple[Converted, ...]) -> State:
    """What became of a plan: of each LoRA, and of each part that was quantized."""
    found = tuple(
        attrs.evolve(given, modules=one.lora.modules, used=one.lora.used, tensors=one.lora.tensors)
        for given, one in zip(plan.loras, loras, strict=True)
    )
    return State(
        plan=plan,
        quantized=converted,
        loras=found,
        lora_kept=check_kept(loras, converted),
        remarks=tuple(remark for one in loras for remark in one.lora.remarks),
    )
