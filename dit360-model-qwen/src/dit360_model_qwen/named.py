"""The models of Qwen-Image that have a name."""

from __future__ import annotations

from pathlib import Path

from dit360_core.plugins import Model

SHAPES = Path(__file__).parent / "shapes"
"""Folders with configurations of models alone, for planning before anything is downloaded."""

QWEN_360 = Model(
    name="qwen-360",
    api=1,
    summary=(
        "Qwen-Image-2512 with ProGamerGov's panorama LoRA in 50 steps with true guidance (model Apache-2.0, LoRA MIT; "
        "58 GB of weights)"
    ),
    base="Qwen/Qwen-Image-2512",
    lora="ProGamerGov/qwen-360-diffusion/qwen-360-diffusion-2512-int8-bf16-v2.safetensors",
    shape=str(SHAPES / "qwen-image-2512"),
    # The words that the LoRA was trained with.
    prompt_prefix="equirectangular 360 image of ",
    width=2048,
    height=1024,
    steps=50,
    guidance=4.5,
)
