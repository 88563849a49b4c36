"""FLUX.2 and FLUX.2 [klein] in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.plugins import Model, ModelFamily, hookimpl

from dit360_model_flux2.named import KLEIN_360


def _load() -> Any:
    from dit360_model_flux2.architecture import FLUX2  # only where a model is looked at

    return FLUX2


@hookimpl
def dit360_architectures() -> Iterable[ModelFamily]:
    yield ModelFamily(
        name="flux2",
        api=1,
        title="FLUX.2",
        summary="FLUX.2 [klein] 4B and 9B, base and distilled, and FLUX.2 [dev]",
        requires=("diffusers>=0.42",),
        pipelines=("Flux2KleinPipeline", "Flux2Pipeline"),
        transformers=("Flux2Transformer2DModel",),
        load=_load,
    )


@hookimpl
def dit360_models() -> Iterable[Model]:
    yield KLEIN_360
