"""Krea 2 in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.plugins import Model, ModelFamily, hookimpl

from dit360_model_krea.named import KREA_360


def _load() -> Any:
    from dit360_model_krea.architecture import KREA2  # only where a model is looked at

    return KREA2


@hookimpl
def dit360_architectures() -> Iterable[ModelFamily]:
    yield ModelFamily(
        name="krea",
        api=1,
        title="Krea 2",
        summary="Krea 2, base and Turbo",
        requires=("diffusers>=0.42",),
        pipelines=("Krea2Pipeline",),
        transformers=("Krea2Transformer2DModel",),
        load=_load,
    )


@hookimpl
def dit360_models() -> Iterable[Model]:
    yield KREA_360
