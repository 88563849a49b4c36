"""What an option of few values may be: the names, in the order in which help and nodes show them."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
OFFLOADS = ("none", "text", "model", "group", "sequential", "disk")
EVICTIONS = ("none", "text", "all")
PRESETS = ("none", "auto", "low-vram", "balanced", "speed", "quality")
LORA_MODES = ("fuse", "adapter")
QUANTIZED = ("both", "transformer", "text", "t5")
QUANTIZED_MEANS = {"t5": "text"}
"""A value of the same → the one that means as much."""
TIMESTEP_SCHEDULES = ("linear", "quadratic", "cosine")
CIRCULAR_MODES = ("pad", "bias")
WINDOW_POSITIONS = ("own", "whole")
TILING_MODES = ("auto", "always", "never")
TILING_LEVELS = ("auto", "stored", "mixed", "recomputed", "offloaded")
REFERENCES = ("auto", "never")
FAITHFULNESS = ("auto", "always", "never")
MASK_MEANINGS = ("repaint", "keep")
