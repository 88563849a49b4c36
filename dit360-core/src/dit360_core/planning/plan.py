"""What a loaded pipeline is made of, as it was asked for and as it was decided. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.options import REPLACING, LoadOptions
from dit360_core.planning.loras import GivenLora, wanted
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.offers import Model
from dit360_core.system.machine import Machine

if TYPE_CHECKING:
    from dit360_core.models.weights.conversion import Converted


@attrs.frozen(kw_only=True)
class Plan:
    """What a loaded pipeline is made of.

    loras: what was fused or put beside, each with what became of it. lora_kept: the share of their effect that rounding
    left, where they were fused into quantized weights. fused_before: the LoRAs that the stored weights of the model
    hold already, as ``loras_as_dicts`` told them then. quantized: what became of each part. asked: the
    options as they were given, and decided: what ``vram`` or ``preset`` made of them when the model was loaded.
    added_loras: put beside it since then, each as in ``loras_as_dicts``.
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
    loras: tuple[GivenLora, ...] = ()
    lora_mode: str = "fuse"
    lora_kept: float | None = None
    fused_before: tuple[Mapping[str, Any], ...] = ()
    quantized: tuple[Converted, ...] = ()
    notes: tuple[str, ...] = ()
    decided: Mapping[str, Any] = attrs.field(factory=dict)
    added_loras: tuple[Mapping[str, Any], ...] = ()

    def sentences(self) -> list[str]:
        """For the log: one line a subject."""
        model = self.options.model
        lines = [f"model: {model}, {self.precision} on {self.device}"]
        lines += [f"{name}: {given}, instead of the model's own" for name, given in self.replaced().items()]
        how = "beside the weights" if self.lora_mode == "adapter" else "fused"
        lines += [f"lora: {lora.sentence()} {how}" for lora in self.loras]
        if self.lora_kept is not None:
            lines.append(f"lora: {self.lora_kept:.0%} of the effect left by rounding")
        lines += [f"lora: {lora['from']} is in the stored weights" for lora in self.fused_before]
        if self.asked.bounded:
            by = " ".join(
                f"{n}={v}"
                for n, v in (("vram", self.asked.vram), ("ram", self.asked.ram), ("preset", self.asked.preset))
                if v not in (None, "none")
            )
            told = ", ".join(f"{name}={value}" for name, value in self.decided.items())
            lines.append(f"memory: {by} decided {told or 'that everything stays on the device as it is'}")
        lines += [self.attention.sentence(), self.quantization.sentence()]
        return lines + [part.sentence() for part in self.quantized]

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
            "quantization": {
                **self.quantization.as_dict(),
                "parts": {part.part: part.as_dict() for part in self.quantized},
            },
            **self.replaced(),
            **self.told_of_loras(),
            "notes": list(self.notes),
        }

    def replaced(self) -> dict[str, str]:
        """Option → what was given for a part of the model, for the parts that are not its own."""
        return {name: given for name in REPLACING if (given := getattr(self.options, name))}

    def told_of_loras(self) -> dict[str, Any]:
        """For metadata: every LoRA that is in the weights or beside them."""
        return {
            "loras": self.loras_as_dicts(),
            **({} if self.lora_kept is None else {"lora_kept": round(self.lora_kept, 4)}),
            **({"added_loras": [dict(lora) for lora in self.added_loras]} if self.added_loras else {}),
            **({"loras_in_stored_weights": list(map(dict, self.fused_before))} if self.fused_before else {}),
        }

    def loras_as_dicts(self) -> list[dict[str, Any]]:
        """What is told of each LoRA that the model was loaded with."""
        return [{**lora.as_dict(), "mode": self.lora_mode} for lora in self.loras]


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
) -> Plan:
    """What was decided, as one object. notes: what is to be said of it beside. asked: as in :class:`Plan`."""
    now, before = attrs.asdict(options), attrs.asdict(asked or options)
    return Plan(
        options=options,
        asked=asked or options,
        decided={name: value for name, value in now.items() if value != before[name]},
        model=model,
        device=machine.device,
        device_name=machine.device_name,
        precision=precision,
        offload=options.offload,
        attention=attention,
        attention_slice_size=options.attention_slice_size,
        quantization=quantization,
        loras=wanted(options, model),
        lora_mode=options.lora_mode,
        fused_before=tuple(fused_before),
        notes=tuple(notes),
    )
