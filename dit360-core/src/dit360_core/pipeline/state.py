"""A loaded model: what is true of it now, where the plan says what was decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import plain
from dit360_core.models.lora.added import Added, beside_bytes
from dit360_core.models.weights.bytes import tensor_bytes
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, budget_of
from dit360_core.planning.forecast import Subject, bytes_before, chosen_setup
from dit360_core.planning.kernels import Kernels
from dit360_core.planning.loras import LoraUse
from dit360_core.planning.plan import Plan
from dit360_core.planning.prediction import Prediction, predict
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine
from dit360_core.system.memory import used_memory

if TYPE_CHECKING:
    from dit360_core.models.engine import Engine
    from dit360_core.models.shapes.shapes import Shapes
    from dit360_core.models.weights.conversion import Converted
    from dit360_core.models.weights.forms.kept import Kept


@attrs.define(kw_only=True, eq=False)
class State:
    """What became of a plan. It begins as was decided, and changes where memory runs out and where LoRAs change.

    plan: what was decided.
    offload, evict, attention_slice_size: as in :class:`~dit360_core.options.LoadOptions`.
    quantized: what became of each part that is quantized.
    loras: those that the model was loaded with, each with what became of it and its strength now.
    lora_kept: the share of their effect that rounding left, where they were fused into quantized weights.
    added_loras: put beside the weights since then, as metadata tell them.
    remarks: warnings about the files of LoRAs.
    given_up: what was done when memory ran out.
    """

    plan: Plan
    offload: str = attrs.field()
    evict: str = attrs.field()
    attention_slice_size: int = attrs.field()
    quantized: tuple[Converted, ...] = ()
    loras: tuple[LoraUse, ...] = attrs.field()
    lora_kept: float | None = None
    added_loras: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    given_up: list[str] = attrs.field(factory=list)

    @offload.default
    def _offload_as_planned(self) -> str:
        return self.plan.offload

    @evict.default
    def _evict_as_planned(self) -> str:
        return self.plan.options.evict

    @attention_slice_size.default
    def _slices_as_planned(self) -> int:
        return self.plan.attention_slice_size

    @loras.default
    def _loras_as_planned(self) -> tuple[LoraUse, ...]:
        return self.plan.loras

    @property
    def options(self) -> LoadOptions:
        """The options with which the model could be loaded as it is now."""
        return attrs.evolve(
            self.plan.options,
            offload=self.offload,
            evict=self.evict,
            attention_slice_size=self.attention_slice_size,
            quantization_mode=self.plan.quantization.used,
        )

    def reread(self, converted: Sequence[Converted], lora_kept: float | None) -> None:
        """Parts were quantized anew, when they were read again.

        lora_kept: None: as before.
        """
        others = [part for part in self.quantized if part.part not in {new.part for new in converted}]
        self.quantized = (*others, *converted)
        self.lora_kept = self.lora_kept if lora_kept is None else lora_kept

    # ----------------------------------------------------------------------------------------------------- in words

    def sentences(self) -> list[str]:
        """For the log: the plan and what became of it, one line a subject."""
        how = "beside the weights" if self.plan.lora_mode == "adapter" else "fused"
        lines = [*self.plan.sentences(), *(f"lora: {lora.sentence()} {how}" for lora in self.loras)]
        if self.lora_kept is not None:
            lines.append(f"lora: {self.lora_kept:.0%} of the effect left by rounding")
        return lines + [part.sentence() for part in self.quantized]

    def warnings(self) -> list[str]:
        """What is not as somebody would expect, a sentence each."""
        return [*self.plan.warnings(), *self.remarks]

    def as_dict(self) -> dict[str, Any]:
        """For metadata: the plan, with what is true now in the place of what was decided."""
        told = self.plan.as_dict()
        parts = {part.part: part.as_dict() for part in self.quantized}
        return {
            **told,
            "offload": self.offload,
            "evict": self.evict,
            "attention_slice_size": self.attention_slice_size,
            "quantization": {**told["quantization"], "parts": parts},
            **self.lora_metadata(),
            "notes": [plain(note) for note in (*self.plan.notes, *self.remarks)],
            **({"out_of_memory": list(self.given_up)} if self.given_up else {}),
        }

    def lora_metadata(self) -> dict[str, Any]:
        """For metadata: every LoRA that is in the weights or beside them."""
        fused_before = self.plan.fused_before
        return {
            "loras": self.loras_as_dicts(),
            **({} if self.lora_kept is None else {"lora_kept": round(self.lora_kept, 4)}),
            **({"added_loras": [dict(lora) for lora in self.added_loras]} if self.added_loras else {}),
            **({"loras_in_stored_weights": list(map(dict, fused_before))} if fused_before else {}),
        }

    def loras_as_dicts(self) -> list[dict[str, Any]]:
        """What is told of each LoRA that the model was loaded with."""
        return [{**lora.as_dict(), "mode": self.plan.lora_mode} for lora in self.loras]


@attrs.define(kw_only=True, eq=False)
class Loaded:
    """What the stages of one pipeline share.

    engine: the model's parts.
    state: what is true of it now.
    kernels: of attention, each loaded once.
    added: LoRAs beside the ones that it was loaded with.
    make_shapes: gives the model's shapes, and is asked when they are first needed.
    kept: the parts that are as their files have them.
    """

    engine: Engine
    state: State
    registry: Registry
    machine: Machine
    kernels: Kernels
    added: Added
    make_shapes: Callable[[], Shapes]
    kept: Mapping[str, Kept] = attrs.field(factory=dict)
    _shapes: Shapes | None = None

    @property
    def plan(self) -> Plan:
        """What was decided when it was loaded."""
        return self.state.plan

    # ------------------------------------------------------------------------------------------------------- planning

    def subject(
        self, sampling: SampleOptions, decoding: DecodeOptions, *, referring: bool = False, given: bool = False
    ) -> Subject:
        """This model, and a picture that is to be made with it.

        referring: the model is shown another picture, too.
        given: a picture is given to begin with, or a part of one to keep.
        """
        if self._shapes is None:
            self._shapes = self.make_shapes()
        shapes, plan = self._shapes, self.plan
        bits = {}
        for part in self.state.quantized:
            if part.part in self.kept:
                continue
            weights = sum(shapes.weights_of_layer(part.part, layer.name) for layer in part.layers)
            bits[part.part] = 8 * part.bytes / weights if weights else 16.0
        own = sampling.attention_backend not in ("pipeline", "auto")
        name = sampling.attention_backend if own else plan.attention.address
        return Subject(
            shapes=shapes, facts=self.engine.facts,
            model=plan.model, machine=self.machine, precision=plan.precision, registry=self.registry,
            sampling=sampling, decoding=decoding, attention=self.registry.find("attention", name)[0],
            lora=bool(self.state.loras), stored=bits, kept=self.kept, quantizer=plan.quantization.address,
            held=self._held(), beside=beside_bytes(self.engine.denoiser), referring=referring,
            given=given,
        )  # fmt: skip

    def predict(
        self, sampling: SampleOptions, decoding: DecodeOptions, *, referring: bool = False, given: bool = False
    ) -> Prediction:
        """What a picture takes, with the model as it is loaded now.

        referring, given: as for :meth:`subject`.
        """
        subject = self.subject(sampling, decoding, referring=referring, given=given)
        vram = self.plan.options.vram
        setup = chosen_setup(subject, self.state.options, None if vram is None else budget_of(vram))
        return predict(subject.shapes, setup, subject.held)

    def _held(self) -> int:
        if self.plan.device != "cpu":
            return bytes_before(self.plan.device)
        # The weights are among what the process holds already.
        return max(0, used_memory("cpu") - self.weights_here())

    def weights_here(self) -> int:
        """Bytes of the parts that are in memory now; blocks in files leave placeholders that take none."""
        family = self.engine.architecture
        away = family.by_blocks("disk") if self.state.offload == "disk" else ()
        parts: dict[str, Any] = self.engine.pipe.components
        return sum(
            tensor_bytes(part) for name, part in parts.items() if hasattr(part, "parameters") and name not in away
        )

    # --------------------------------------------------------------------------------------------------------- LoRAs

    def change_added(self, wanted: Mapping[Any, float]) -> None:
        """Puts LoRAs beside the denoiser, and takes away those that are not wanted.

        wanted: file → strength.
        """
        denoiser = self.engine.denoiser
        self.added.change(denoiser, self.engine.config, wanted, self.engine.like_factors(denoiser))
