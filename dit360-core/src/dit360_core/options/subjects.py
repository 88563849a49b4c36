"""What the options are about, and which of them most people use: for help pages, and for nodes that hide the rest."""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.options.load import REPLACING

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "Picture": ("prompt", "negative_prompt", "width", "height", "seed"),
    "Sampling": (
        "steps", "guidance", "true_guidance", "denoise", "scheduler_type", "timestep_schedule", "scheduler_eta",
        "windows", "window_positions", "faithful", "prompt_prefix", "max_sequence_length",
    ),
    "Seam and poles": (
        "circular_padding", "circular_mode", "latent_rotation", "position_interpolation", "yaw_consistency",
        "cube_consistency",
    ),
    "Photos and masks": (
        "fov", "yaw", "pitch", "roll", "region", "mask_means", "mask_grow", "mask_soften", "paste_back",
        "match_colours", "reference",
    ),
    "Model": (
        "model", "lora", "lora_strength", "model_lora", "lora_mode", *REPLACING, "models_dir",
    ),
    "Memory and speed": (
        "vram", "ram", "preset", "precision", "device", "quantization_mode", "quantization_parts",
        "quantization_skip", "offload", "evict", "attention_backend", "attention_slice_size", "compile_blocks",
        "log_memory_stats", "strict",
    ),
    "Decoding": (
        "tiling_mode", "tiling_backend", "tiling_level", "tile_size_override", "tile_overlap_override",
        "max_tile_pixels_override", "vae_tile_size", "vae_tile_overlap", "vae_auto_tile_pixels",
    ),
}  # fmt: skip
"""Subject → the options that belong to it. Every option of every class has one."""

USUAL = (
    "prompt", "model", "width", "steps", "guidance", "seed", "negative_prompt", "denoise", "region", "lora", "vram",
    "preset", "scheduler_type",
)  # fmt: skip
"""Options that most people use, in this order. The others are shown to who asks for them."""


def subject_of(name: str) -> str:
    """The subject of an option; Other of one that is none of these."""
    return next((subject for subject, names in SUBJECTS.items() if name in names), "Other")
