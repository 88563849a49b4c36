"""DiT360Loader: which model, and everything that is decided once for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dit360_core.errors import InputError, ModelError
from dit360_core.options import DEVICES, OFFLOADS, PRECISIONS, LoadOptions, build
from dit360_core.planning.checks import check_names
from dit360_core.plugins.registry import default_registry

from dit360_comfy import host
from dit360_comfy.choices import choices
from dit360_comfy.device import device, device_room
from dit360_comfy.inputs import Control, Spec, asked, specs
from dit360_comfy.nodes.base import Node

FILES = "the files'"
"""Choice of a model that is told by the file of its transformer."""
_TRANSFORMERS, _TEXTS = ("diffusion_models", "unet", "unet_gguf", "checkpoints"), ("text_encoders", "clip", "clip_gguf")
_PARTS = ("transformer", "clip", "t5", "text_encoder")
OWN = "the model's"
"""Choice of a drop-down of files that leaves it to the model."""

_REQUIRED = (
    Control(
        options=LoadOptions,
        option="precision",
        choices=(*PRECISIONS, "fp8"),
        tooltip="Numbers to compute with; auto takes what is fast here. fp8 computes in bf16 and keeps weights in 8 "
        "bits, as quantization_mode=fp8.",
    ),
)
_OPTIONAL = (
    Control(options=LoadOptions, option="attention_backend"),
    Control(
        options=LoadOptions, option="attention_slice_size", settings={"min": -1, "max": 65536},
        tooltip="Query rows per attention call; less memory with eager attention. 0 or -1: all at once.",
    ),
    Control(options=LoadOptions, option="quantization_mode"),
    Control(options=LoadOptions, option="vae_tile_size"),
    Control(options=LoadOptions, option="vae_tile_overlap"),
    Control(options=LoadOptions, option="vae_auto_tile_pixels", settings={"step": 1048576}),
    # Workflows keep values by their order: ours come after those that other packs' nodes of this name have.
    Control(options=LoadOptions, option="preset"),
    Control(
        options=LoadOptions, option="vram", unset="no limit",
        choices=("no limit", "auto", "8", "12", "16", "24", "32", "48"),
        tooltip="Memory to keep to, in GiB, or auto for what is free: decides offload, quantization, eviction and "
        "slices where those are not set to anything.",
    ),
    Control(options=LoadOptions, option="device"),
    Control(
        options=LoadOptions, option="offload", choices=("auto", *OFFLOADS), settings={"default": "auto"},
        tooltip="Where weights wait: on the device (none), or in system memory: the text encoder only (text), whole "
        "parts (model), blocks that come while others compute (group), layers (sequential; slow); disk: blocks, in "
        "files. auto: as offload_to_cpu says.",
    ),
    Control(options=LoadOptions, option="evict"),
    Control(options=LoadOptions, option="compile_blocks"),
    Control(options=LoadOptions, option="quantization_parts"),
    Control(options=LoadOptions, option="quantization_skip"),
    Control(options=LoadOptions, option="lora_strength", name="lora_strength"),
    Control(options=LoadOptions, option="lora_mode"),
    Control(options=LoadOptions, option="strict"),
)  # fmt: skip
_MODEL_LORA = Control(
    options=LoadOptions,
    option="model_lora",
    tooltip="Apply the LoRA that belongs to the model, as DiT360's to dit360. Off: without it, or with lora alone.",
)
_FIRST = (
    "preset", "vram", "attention_backend", "attention_slice_size", "quantization_mode", "vae_tile_size",
    "vae_tile_overlap", "vae_auto_tile_pixels",
)  # fmt: skip


class DiT360Loader(Node):
    """Loads nothing yet: it finds the files and decides on backends; weights are read when they are first used."""

    DISPLAY_NAME = "DiT360 Loader"
    DESCRIPTION = (
        "A panorama model and what it runs on: attention kernel, quantization, offloading, tiles. Everything is "
        "checked here; the weights are read when another node first uses them, and DiT360 Unload drops them again."
    )
    RETURN_TYPES = ("DIT360_PIPE",)
    OUTPUT_TOOLTIPS = ("The model, for the other DiT360 nodes.",)
    FREE: ClassVar[tuple[str, ...]] = (
        "model_path", "vae_path", "t5_path", "lora", "attention_backend", "quantization_mode", "vram", *_PARTS,
    )  # fmt: skip

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        known = choices("model")
        models = [FILES, *known.names, *host.model_folders()]

        def of_files(kind: str, tooltip: str) -> Spec:
            return [OWN, *host.files(kind)], {"default": OWN, "tooltip": tooltip}

        def of_weights(kinds: tuple[str, ...], tooltip: str) -> Spec:
            return [OWN, *host.weights(*kinds)], {"default": OWN, "tooltip": tooltip, "advanced": True}

        return {
            "required": {
                "model_path": (models, {
                    "default": "dit360",
                    "tooltip": f"A known model, a diffusers folder in models/dit360 or models/diffusers, or {FILES}: "
                    "transformer, vae_path and text encoders of single files. tiny is embedded: small pictures on any "
                    "machine. For another folder or a Hub id: custom_model. "
                    f"{known.unavailable}".strip(),
                }),
                **specs(_REQUIRED),
                "vae_path": of_files("vae", "Autoencoder instead of the model's own, from models/vae."),
                "t5_path": of_files("text_encoders", "T5 instead of the model's own, from models/text_encoders."),
                "offload_to_cpu": ("BOOLEAN", {
                    "default": True,
                    "tooltip": "What to do where the model does not fit: offload as much as needed, without changing "
                    "the picture. Off: all of it has to fit. Either way ComfyUI moves it away when another model "
                    "needs the room.",
                }),
            },
            "optional": {
                **specs(_OPTIONAL, advanced=[c.name for c in _OPTIONAL if c.name not in _FIRST]),
                "custom_model": ("STRING", {
                    "default": "", "advanced": True,
                    "tooltip": "Instead of model_path: a diffusers folder or a file of a whole model anywhere, or a "
                    "Hub id (owner/name).",
                }),
                "lora": ([OWN, *host.files("loras")], {
                    "default": OWN, "advanced": True,
                    "tooltip": "LoRA to load with the model, from models/loras, beside its own (model_lora). To try "
                    "several, or strengths, the node DiT360 LoRA Loader reads nothing again.",
                }),
                # Workflows keep values by their order: what is new comes last.
                **specs((_MODEL_LORA,), advanced=[_MODEL_LORA.name]),
                "transformer": of_weights(_TRANSFORMERS, "Transformer instead of the model's own: safetensors in full, "
                    "fp8 or int8, or GGUF. With model_path at the files' a model of files alone, which need no other."),
                "clip": of_weights(_TEXTS, "CLIP text encoder instead of the model's own."),
                "t5": of_weights(_TEXTS, "T5 text encoder instead of the model's own, in any form; or t5_path."),
                "text_encoder": of_weights(_TEXTS, "Text encoder instead of the own of a model that has one alone."),
            },
        }  # fmt: skip

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        if "model_path" in given:
            options = load_options(given, device="cpu", room=0)
            check_names(options, None, default_registry(), _is_there)

    def run(self, **given: Any) -> tuple[Any]:
        from dit360_comfy.model import source_of
        from dit360_comfy.pipe import Pipe

        on = device()
        room = device_room(on) if on.type == "cuda" else 0
        with host.plain_mode():
            try:
                source = source_of(load_options(given, device=on.type, room=room))
            except ModelError as error:
                if "the Hub cannot be reached" not in str(error):
                    raise
                raise ModelError(
                    f"{error.sentence.rstrip('.')}. Files that you have: FLUX's folder at custom_model, the LoRA in "
                    "models/loras at lora. To try without any, choose tiny."
                ) from error
        return (Pipe.of(source),)


def load_options(given: Mapping[str, Any], *, device: str, room: int) -> LoadOptions:
    """The core's options for the inputs of a loader.

    device: ComfyUI's own, which ``auto`` means.
    room: bytes of it that ComfyUI would let the model have, for offloading by itself on a CUDA device.

    Raises InputError.
    """
    found = asked((*_REQUIRED, *_OPTIONAL, _MODEL_LORA), given)
    for option in _PARTS:
        if given.get(option) not in (None, "", OWN):
            found[option] = host.weights_file(given[option])
    found["model"] = given.get("custom_model") or _model(given.get("model_path") or "dit360")
    if found["model"] == FILES:
        if given.get("transformer", OWN) in ("", OWN):
            raise InputError(f"model_path is {FILES!r}, and no transformer is chosen; choose its file.")
        found["model"] = found.get("transformer", "tiny")  # one that is linked is known when the node runs
    for option, name, kind in (
        ("vae", "vae_path", "vae"),
        ("t5", "t5_path", "text_encoders"),
        ("lora", "lora", "loras"),
    ):
        value = given.get(name)
        if value not in (None, "", OWN):
            if option in found:
                raise InputError(f"{option} and {name} both name a file; leave one of them at {OWN!r}.")
            found[option] = host.file_of(kind, value)
    if found.get("attention_slice_size", 0) < 0:
        del found["attention_slice_size"]
    if found.get("precision") == "fp8":
        if found.get("quantization_mode", "none") not in ("none", "fp8"):
            raise InputError(
                f"precision=fp8 and quantization_mode={found['quantization_mode']} say two things of the same "
                "weights; set precision to auto."
            )
        found |= {"precision": "auto", "quantization_mode": "fp8"}
    if found.get("device", "auto") == "auto":
        if device not in DEVICES:
            raise InputError(
                f"ComfyUI computes on {device} here, which dit360 does not; set device to cpu, or start ComfyUI with "
                "--cpu."
            )
        found["device"] = device
    if found.get("offload", "auto") == "auto":
        found["offload"] = "none"
        decides = "vram" in found or found.get("preset", "none") != "none"
        if given.get("offload_to_cpu", True) and found["device"] == "cuda" and room and not decides:
            found |= {"vram": f"{room / 2**30:.1f}", "preset": "quality"}
    return build(LoadOptions, found)


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # as dit360_core.system.naming.existing
        return False


def _model(name: str) -> str:
    folder = host.model_folders().get(name)
    return name if folder is None else str(folder)


NODES: dict[str, type[Any]] = {"DiT360Loader": DiT360Loader}
