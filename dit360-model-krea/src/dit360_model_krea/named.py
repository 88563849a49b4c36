"""The models of Krea 2 that have a name."""

from __future__ import annotations

from pathlib import Path

from dit360_core.plugins import Model

SHAPES = Path(__file__).parent / "shapes"
"""Folders with configurations of models alone, for planning before anything is downloaded."""

KREA_360 = Model(
    name="krea-360",
    api=1,
    summary=(
        "Krea 2 Turbo in 8 steps (Krea 2 community licence, 35 GB of weights); it knows panoramas by the prompt alone, "
        "so add a panorama LoRA with --lora"
    ),
    base="CalamitousFelicitousness/Krea-2-Turbo-Diffusers",
    shape=str(SHAPES / "krea-2-turbo"),
    prompt_prefix="A full 360 degree equirectangular panorama in 2:1 spherical projection, ",
    width=2048,
    height=1024,
    # Distilled: no guidance, which is 0 as Krea counts it.
    steps=8,
    guidance=0.0,
    guidance_range=(0.0, 10.0),
)
