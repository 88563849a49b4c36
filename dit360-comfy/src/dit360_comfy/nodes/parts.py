"""DiT360PipeBreakout and DiT360PipeCombine: a model's parts, and models made of parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from dit360_core.errors import InputError
from dit360_core.models.architecture import Role
from dit360_core.options import DEVICES, PRECISIONS, LoadOptions, build
from dit360_core.plugins.registry import default_registry

from dit360_comfy import host
from dit360_comfy.choices import choices
from dit360_comfy.inputs import Spec
from dit360_comfy.model import Source, alone, source_of
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.pipe import PARTS, Part, part_of, pipe_of

KEEP = "pipeline"


class DiT360PipeBreakout(Node):
    DISPLAY_NAME = "DiT360 Pipe Breakout"
    DESCRIPTION = "The parts of a model, for DiT360 Pipe Combine. Nothing is copied."
    RETURN_TYPES = ("DIT360_MODEL", "DIT360_VAE", "DIT360_TEXT_ENCODER", "DIT360_PIPE")
    OUTPUT_TOOLTIPS = (
        "The transformer, with the LoRAs that were put beside it.",
        "The autoencoder.",
        "Both text encoders.",
        "The model as it came in.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {"required": {"dit360_pipe": pipe_input()}}

    def run(self, dit360_pipe: Any) -> tuple[Any, ...]:
        pipe = pipe_of(dit360_pipe)
        return pipe.model, pipe.vae, pipe.text_encoder, pipe


class DiT360PipeCombine(Node):
    DISPLAY_NAME = "DiT360 Pipe Combine"
    DESCRIPTION = (
        "A model made of the parts of several, or one with other settings. Kernel, slices and tiles are other choices "
        "for the same weights; another precision, device or quantization means other weights, which are read beside "
        "them."
    )
    RETURN_TYPES = ("DIT360_PIPE",)
    OUTPUT_TOOLTIPS = ("The model, for the other DiT360 nodes.",)
    FREE: ClassVar[tuple[str, ...]] = (
        "quantization_override", "attention_backend_override", "dtype_override", "device_override",
        "offload_device_override",
    )  # fmt: skip
    WORDS: ClassVar[Mapping[str, str]] = {
        "precision": "dtype_override", "device": "device_override", "offload": "offload_device_override",
        "quantization_mode": "quantization_override",
    }  # fmt: skip

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        attention, quantization = choices("attention", first=[KEEP]), choices("quantization", first=[KEEP])
        own = "pipeline: as base_pipe has it."
        return {
            "required": {
                "base_pipe": ("DIT360_PIPE", {"tooltip": "The model whose parts and settings are taken where nothing "
                "else is given."}),
            },
            "optional": {
                "model": ("DIT360_MODEL", {"tooltip": "A transformer, of a DiT360 Pipe Breakout."}),
                "vae": ("DIT360_VAE", {"tooltip": "An autoencoder, of a DiT360 Pipe Breakout."}),
                "text_encoder": ("DIT360_TEXT_ENCODER", {"tooltip": "Text encoders, of a DiT360 Pipe Breakout."}),
                "dtype_override": ([KEEP, *PRECISIONS, "fp8"], {
                    "default": KEEP, "tooltip": f"Another precision, or fp8: weights in 8 bits. {own}",
                }),
                "device_override": ([KEEP, *DEVICES], {"default": KEEP, "tooltip": f"Another device. {own}"}),
                "offload_device_override": ([KEEP, "cpu", "none"], {
                    "default": KEEP,
                    "tooltip": "Where parts wait that are not used: cpu (whole parts in system memory), or none "
                    f"(they stay). {own}",
                }),
                "quantization_override": (list(quantization.names), {
                    "default": KEEP, "tooltip": f"Weights in fewer bits. {own} {quantization.unavailable}".strip(),
                }),
                "attention_backend_override": (list(attention.names), {
                    "default": KEEP, "tooltip": f"Another attention kernel. {own} {attention.unavailable}".strip(),
                }),
                "attention_slice_override": ("INT", {
                    "default": -1, "min": -1, "max": 65536, "step": 1,
                    "tooltip": "Query rows per attention call. 0: all at once. -1: as base_pipe has it.",
                }),
                "vae_tile_size_override": ("INT", {
                    "default": 0, "min": 0, "max": 8192, "step": 64,
                    "tooltip": "Largest side of a tile of the autoencoder, in pixels. 0: as base_pipe has it.",
                }),
                "vae_tile_overlap_override": ("INT", {
                    "default": -1, "min": -1, "max": 1024, "step": 16,
                    "tooltip": "Pixels by which blended tiles overlap. -1: as base_pipe has it.",
                }),
                "vae_auto_tile_override": ("INT", {
                    "default": -1, "min": -1, "max": 268435456, "step": 1048576,
                    "tooltip": "Pixels above which a picture is cut into tiles anyhow. 0: no limit. -1: as base_pipe "
                    "has it.",
                }),
                "refresh_metadata_from_components": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "Take size, steps, guidance and padding, where a node leaves them to the model, from "
                    "the transformer's model. Off: from base_pipe's.",
                }),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        load_changes(given, LoadOptions())
        for kind, name in (("quantization", "quantization_override"), ("attention", "attention_backend_override")):
            if given.get(name) not in (None, KEEP, "auto"):
                default_registry().find(kind, given[name])

    def run(self, base_pipe: Any, **given: Any) -> tuple[Any]:
        base = pipe_of(base_pipe)
        parts = {
            kind: part_of(given[kind], kind) if given.get(kind) is not None else getattr(base, kind) for kind in PARTS
        }
        with host.plain_mode():
            changed: dict[str, Any] = {kind: _changed(part, given) for kind, part in parts.items()}
            for kind in ("vae", "text_encoder"):
                changed[kind] = _alone(changed[kind], changed["model"].source)
        refreshed = given.get("refresh_metadata_from_components", True)
        settings = {
            name: given[override]
            for name, override, unset in (
                ("attention_backend", "attention_backend_override", KEEP),
                ("attention_slice_size", "attention_slice_override", -1),
                ("vae_tile_size", "vae_tile_size_override", 0),
                ("vae_tile_overlap", "vae_tile_overlap_override", -1),
                ("vae_auto_tile_pixels", "vae_auto_tile_override", -1),
            )
            if given.get(override, unset) != unset
        }
        described = changed["model"].source if refreshed else base.described
        return (attrs.evolve(base, **changed, described=described, **settings),)


def load_changes(given: Mapping[str, Any], options: LoadOptions) -> LoadOptions:
    """Load options with what these inputs say instead. Raises InputError."""
    changes: dict[str, Any] = {}
    # Older workflows have texts there, empty ones for what is now called pipeline.
    dtype, device, away = (
        (given.get(f"{name}_override") or "").strip().lower().replace(KEEP, "")
        for name in ("dtype", "device", "offload_device")
    )
    mode = given.get("quantization_override") or KEEP
    if dtype == "fp8":
        if mode not in (KEEP, "fp8"):
            raise InputError(f"dtype_override=fp8 and quantization_override={mode} say two things; leave one out.")
        changes |= {"precision": "auto", "quantization_mode": "fp8"}
    elif dtype:
        changes["precision"] = dtype
    if device:
        changes["device"] = device
        changes.setdefault("offload", "none")
    if away and away not in ("cpu", "none"):
        raise InputError(f"offload_device_override is {away!r}, but must be cpu, none or {KEEP}.")
    if away:
        # Only on an accelerator do parts have another memory to wait in.
        on_cpu = (device or options.device) == "cpu"
        changes["offload"] = "model" if away == "cpu" and not on_cpu else "none"
    if away or device:
        # What the loader decided by the memory of its device, or was told to, is not what is asked for here.
        changes |= {"vram": None, "preset": "none"}
    if mode != KEEP:
        changes["quantization_mode"] = mode
    if not changes:
        return options
    return build(LoadOptions, {**attrs.asdict(options), **changes})


def _changed(part: Part, given: Mapping[str, Any]) -> Part:
    options = load_changes(given, part.source.options)
    return part if options == part.source.options else attrs.evolve(part, source=source_of(options))


def _alone(part: Part, beside: Source) -> Part:
    """A part of another model than the transformer's, of which no more than this part need be read."""
    # A LoRA that changes a part which is never dropped is fused into a model that is there as a whole.
    if part.source is beside or part.source.changes_what_stays:
        return attrs.evolve(part, alone=None)
    role = {"vae": Role.AUTOENCODER, "text_encoder": Role.TEXT}[part.kind]
    return attrs.evolve(part, alone=alone(part.source, *part.source.prepared.architecture.used_by(role)))


NODES: dict[str, type[Any]] = {"DiT360PipeBreakout": DiT360PipeBreakout, "DiT360PipeCombine": DiT360PipeCombine}
