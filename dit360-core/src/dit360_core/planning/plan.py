"""What a loaded pipeline is made of, as it was asked for and as it was decided. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from dit360_core.errors import Sentence, plain, setting
from dit360_core.options import REPLACING, LoadOptions
from dit360_core.planning.loras import LoraUse, lora_uses
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.offers import Model
from dit360_core.system.machine import Machine


def _said(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(Sentence, notes))


@attrs.frozen(kw_only=True)
class Plan:
    """What was decided before the weights were read. What became of it is in the pipeline's state.

    options: as the model is loaded with.
    asked: as they were given, before ``vram``, ``ram`` or ``preset`` decided.
    decided: what these made of them.
    model: with its defaults.
    device, device_name: where it computes.
    precision: fp32, bf16 or fp16.
    offload: where weights wait; that of somebody else, where a pipeline was offloaded before it was given to us.
    attention, quantization: what was asked, what is used, and why nothing else.
    attention_slice_size: query rows of a call; 0: all at once.
    loras: those that are to be applied.
    lora_mode: fuse or adapter.
    fused_before: the LoRAs that the stored weights of the model hold already, as they were told then.
    notes: what there is to say beside.
    """

    options: LoadOptions
    asked: LoadOptions
    model: Model
    device: str
    device_name: str
    precision: str
    offload: str
    attention: Choice
    attention_slice_size: int
    quantization: Choice
    loras: tuple[LoraUse, ...] = ()
    lora_mode: str = "fuse"
    fused_before: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = attrs.field(default=(), converter=_said)
    decided: Mapping[str, Any] = attrs.field(factory=dict)

    def sentences(self) -> list[str]:
        """For the log: one line a subject."""
        model = self.options.model
        lines = [f"model: {model}, {self.precision} on {self.device}"]
        lines += [f"{name}: {given}, instead of the model's own" for name, given in self.replaced().items()]
        lines += [f"lora: {lora['from']} is in the stored weights" for lora in self.fused_before]
        if self.asked.bounded:
            by = " ".join(
                setting(n, v)
                for n, v in (("vram", self.asked.vram), ("ram", self.asked.ram), ("preset", self.asked.preset))
                if v not in (None, "none")
            )
            told = ", ".join(setting(name, value) for name, value in self.decided.items())
            lines.append(f"memory: {by} decided {told or 'that everything stays on the device as it is'}")
        return [*map(Sentence, lines), self.attention.sentence(), self.quantization.sentence()]

    def warnings(self) -> list[str]:
        """What is not as somebody would expect, a sentence each."""
        return [*([self.attention.sentence()] if self.attention.fell_back else []), *self.notes]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.options.model,
            "base": self.model.base if self.model.name == "given" else self.model.name,
            "device": self.device,
            "device_name": self.device_name,
            "precision": self.precision,
            "offload": self.offload,
            "evict": self.options.evict,
            "compile_blocks": self.options.compile_blocks,
            **({"decided": dict(self.decided)} if self.decided else {}),
            "attention": self.attention.as_dict(),
            "attention_slice_size": self.attention_slice_size,
            "quantization": self.quantization.as_dict(),
            **self.replaced(),
            "notes": [plain(note) for note in self.notes],
        }

    def replaced(self) -> dict[str, str]:
        """Option → what was given for a part of the model, for the parts that are not its own."""
        return {name: given for name in REPLACING if (given := getattr(self.options, name))}


def make_plan(
    options: LoadOptions,
    machine: Machine,
    model: Model,
    precision: str,
    attention: Choice,
    quantization: Choice,
    notes: Iterable[str] = (),
    *,
    fused_before: Iterable[Mapping[str, Any]] = (),
    asked: LoadOptions | None = None,
    offload: str | None = None,
) -> Plan:
    """What was decided, as one object. The arguments are the fields of :class:`Plan`; offload: None: as in options."""
    now, before = attrs.asdict(options), attrs.asdict(asked or options)
    return Plan(
        options=options,
        asked=asked or options,
        decided={name: value for name, value in now.items() if value != before[name]},
        model=model,
        device=machine.device,
        device_name=machine.device_name,
        precision=precision,
        offload=options.offload if offload is None else offload,
        attention=attention,
        attention_slice_size=options.attention_slice_size,
        quantization=quantization,
        loras=lora_uses(options, model),
        lora_mode=options.lora_mode,
        fused_before=tuple(fused_before),
        notes=tuple(notes),
    )
