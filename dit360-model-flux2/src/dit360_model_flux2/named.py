"""The models of FLUX.2 that have a name."""

from __future__ import annotations

from pathlib import Path

from dit360_core.plugins import Model

SHAPES = Path(__file__).parent / "shapes"
"""Folders with configurations of models alone, for planning before anything is downloaded."""

KLEIN_360 = Model(
    name="klein-360",
    api=1,
    summary=(
        "FLUX.2 [klein] 4B in 4 steps (Apache-2.0, 16 GB of weights); it knows panoramas by the prompt alone, so add a "
        "panorama LoRA with --lora"
    ),
    base="black-forest-labs/FLUX.2-klein-4B",
    shape=str(SHAPES / "flux.2-klein-4b"),
    prompt_prefix="A seamless 360 degree equirectangular panorama (2:1) with a level horizon: ",
    width=2048,
    height=1024,
    # Distilled: no more steps, and no guidance, which is 1 in the pipeline of diffusers.
    steps=4,
    guidance=1.0,
)
