"""The models that the core knows by name."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from dit360_core.plugins import EMBEDDED_MODEL, Model, hookimpl
from dit360_core.plugins.embedded import SHIPPED

DIT360 = Model(
    name="dit360",
    api=1,
    summary="DiT360: FLUX.1-dev with the panorama LoRA (needs its licence and about 34 GB of weights)",
    base="black-forest-labs/FLUX.1-dev",
    lora="Insta360-Research/DiT360-Panorama-Image-Generation",
    shape=str(SHIPPED / "flux.1-dev"),
    prompt_prefix="This is a panorama. The image shows ",
    width=2048,
    height=1024,
    steps=28,
    guidance=2.8,
)
"""Also what is asked about where no model is chosen yet."""
_FILL = attrs.evolve(
    DIT360,
    name="dit360-fill",
    summary="DiT360 that fills a part of a picture: FLUX.1-Fill-dev with the same LoRA (needs its licence, 34 GB)",
    base="black-forest-labs/FLUX.1-Fill-dev",
    shape=str(SHIPPED / "flux.1-fill-dev"),
    # Those of diffusers' FluxFillPipeline and of the model's card.
    steps=50,
    guidance=30.0,
    # Where its pictures break nobody has said.
    guidance_range=(1.0, 100.0),
)


@hookimpl
def dit360_models() -> Iterable[Model]:
    yield Model(
        name="tiny",
        api=1,
        summary="embedded demonstration model: small pictures in seconds, no GPU, no network",
        base=EMBEDDED_MODEL,
        width=512,
        height=256,
        steps=28,
        guidance=3.0,
        # It was distilled at 1 … 5; up to 8 pictures keep their shapes, at 20 they are a grid of colours.
        guidance_range=(1.0, 8.0),
        # Its training was too short to learn that the last column touches the first (docs/architecture.md).
        latent_rotation=True,
        # It was trained so: other sizes than its own are usable only with this.
        position_interpolation=True,
        # At the poles it paints a little of what belongs to a horizon.
        cube_consistency=0.3,
        # Small enough that float32 costs nothing, and the picture is then the same on every machine.
        precision="fp32",
    )
    yield DIT360
    yield _FILL
