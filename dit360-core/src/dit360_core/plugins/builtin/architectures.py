"""The family of models that the core itself brings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any

from dit360_core.plugins import ModelFamily, hookimpl


def _flux() -> Any:
    # By name, as an installed plugin is: the rooms of models stand upon this one.
    return EntryPoint("flux", "dit360_core.models.flux.architecture:FLUX", "dit360").load()


@hookimpl
def dit360_architectures() -> Iterable[ModelFamily]:
    yield ModelFamily(
        name="flux",
        api=1,
        title="FLUX.1",
        summary="FLUX.1-dev, -schnell, Krea-dev, Kontext, Fill, and what is made of them",
        # They paint from a prompt, or fill a part of a picture, with the parts of a FluxPipeline.
        pipelines=(
            "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxKontextPipeline",
            "FluxKontextInpaintPipeline", "FluxFillPipeline",
        ),
        transformers=("FluxTransformer2DModel",),
        load=_flux,
    )  # fmt: skip
