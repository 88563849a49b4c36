"""What is decided once, when a model is loaded."""

from __future__ import annotations

import attrs

from dit360_core.errors import named, remedy, setting
from dit360_core.options.budgets import budget_of
from dit360_core.options.choices import DEVICES, EVICTIONS, LORA_MODES, OFFLOADS, PRECISIONS, PRESETS, QUANTIZED
from dit360_core.options.converting import as_budget, as_loras
from dit360_core.options.declaring import option
from dit360_core.options.facts import options_of

LARGEST_STRENGTH = 2.0
"""Of a LoRA."""


@attrs.frozen(kw_only=True)
class LoadOptions:
    """What is decided once, when a model is loaded."""

    model: str = option("tiny", help="Model: a known name, a diffusers folder, or a Hub id.", offers="model")
    lora: tuple[str, ...] = option(
        (),
        help="LoRA beside the model's own: a safetensors file, a folder, or a Hub id. May be given several times.",
        unset="none",
        converter=as_loras,
    )
    lora_strength: float = option(
        1.0,
        help="Strength of LoRAs that are given without one, and of the model's own if no other is given.",
        minimum=-LARGEST_STRENGTH,
        maximum=LARGEST_STRENGTH,
    )
    model_lora: bool = option(True, help="Apply the LoRA that belongs to the model, if it has one.")
    lora_mode: str = option(
        "fuse",
        help="Add LoRAs to the weights (fuse: costs nothing) or keep them beside (adapter: strengths can change).",
        choices=LORA_MODES,
        named="lora_mode",
    )
    transformer: str | None = option(
        None,
        help="Transformer instead of the model's own: a file of weights, a diffusers folder, or a Hub id.",
        unset="the model's",
        replaces_a_part=True,
    )
    clip: str | None = option(
        None,
        help="CLIP text encoder instead of the model's own: a file of weights, a diffusers folder, or a Hub id.",
        unset="the model's",
        replaces_a_part=True,
    )
    vae: str | None = option(
        None,
        help="Autoencoder instead of the model's own: a file of weights, a diffusers folder, or a Hub id.",
        unset="the model's",
        replaces_a_part=True,
    )
    t5: str | None = option(
        None,
        help="T5 text encoder instead of the model's own: a file of weights, a diffusers folder, or a Hub id.",
        unset="the model's",
        replaces_a_part=True,
    )
    text_encoder: str | None = option(
        None,
        help="Text encoder instead of the model's own, where it has one alone: a file of weights, a diffusers folder, "
        "or a Hub id.",
        unset="the model's",
        replaces_a_part=True,
    )
    models_dir: str | None = option(
        None,
        help="Folder of models in which files are looked for that are given by their names alone.",
        unset="DIT360_MODELS_DIR, and ComfyUI's of DIT360_COMFYUI",
    )
    precision: str = option(
        "auto", help="Numbers to compute with; auto takes what is fast here.", choices=PRECISIONS, named="precision"
    )
    device: str = option("auto", help="Where to compute.", choices=DEVICES, named="device")
    offload: str = option(
        "none",
        help="Where weights wait: on the device (none), or in system memory: the text encoder only (text), whole parts "
        "(model), blocks that come while others compute (group), layers (sequential; slow); disk: blocks, in files.",
        choices=OFFLOADS,
        named="offload",
    )
    evict: str = option(
        "none",
        help="What to drop after use and read again when needed: text (the text encoder), or all (one part at a time).",
        choices=EVICTIONS,
        named="evict",
    )
    compile_blocks: bool = option(
        False, help="Compile the transformer's blocks (torch.compile): slower start, faster steps."
    )
    vram: str | None = option(
        None,
        help="Memory to keep to, in GiB (8, 12, 16, 24, 48), or auto for what is free: decides offload, quantization, "
        "eviction and slices where those are not set to anything.",
        unset="no limit",
        converter=as_budget,
    )
    ram: str | None = option(
        None,
        help="System memory to keep to, in GiB (16, 32, 64), or auto for what is free: decides as "
        f"{named('vram')} does. With a device of its own memory, that is for weights that wait; else, for everything.",
        unset="no limit",
        converter=as_budget,
    )
    preset: str = option(
        "none",
        help="What to decide by: quality (never changes the picture), balanced, speed or low-vram; auto is balanced.",
        choices=PRESETS,
        named="preset",
    )
    attention_backend: str = option("auto", help=f"Attention kernel; {remedy('see_backends')}.", offers="attention")
    attention_slice_size: int = option(
        0,
        help="Query rows per attention call; less memory with eager attention. 0: all at once.",
        minimum=0,
        maximum=65536,
    )
    quantization_mode: str = option(
        "none",
        help=f"Store weights in fewer bits; {remedy('see_backends')}. auto: as few as needed to fit into memory.",
        offers="quantization",
    )
    quantization_parts: str = option(
        "both",
        help="What is quantized: both, or only the transformer or the text encoder (text; t5 means the same).",
        choices=QUANTIZED,
        named="parts",
    )
    quantization_skip: str = option(
        "", help="Layers to leave in full precision besides embedders and the final projection: patterns, by commas."
    )
    vae_tile_size: int = option(
        1536, help="Largest side of a tile of the autoencoder, in pixels.", minimum=512, maximum=8192, step=64
    )
    vae_tile_overlap: int = option(
        128,
        help="Pixels by which tiles overlap; only for blended tiles, of which it is at most half.",
        minimum=0,
        maximum=1024,
        step=16,
    )
    vae_auto_tile_pixels: int = option(
        16777216,
        help=f"Pixels above which {setting('tiling_mode', 'auto')} cuts even if memory suffices. 0: no such limit.",
        minimum=0,
        maximum=268435456,
    )
    strict: bool = option(False, help="Fail instead of falling back to another attention kernel.")

    def __attrs_post_init__(self) -> None:
        for name in ("vram", "ram"):
            if (given := getattr(self, name)) is not None:
                budget_of(given, name)

    @property
    def bounded(self) -> bool:
        """Whether something is to be decided by memory: by ``vram``, ``ram`` or ``preset``."""
        return self.vram is not None or self.ram is not None or self.preset != "none"


REPLACING = tuple(name for name, about in options_of(LoadOptions).items() if about.replaces_a_part)
"""Options that name a file or folder which takes the place of a part of the model."""
QUANTIZE_OPTIONS = frozenset(
    {
        "model", "lora", "lora_strength", "lora_mode", "model_lora", *REPLACING, "precision", "device",
        "quantization_mode", "quantization_parts", "quantization_skip",
    }
)  # fmt: skip
"""Options that say what is kept when a quantized model is stored."""
