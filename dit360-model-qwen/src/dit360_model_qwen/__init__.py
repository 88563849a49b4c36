"""Qwen-Image in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.plugins import Model, ModelFamily, hookimpl

from dit360_model_qwen.named import QWEN_360
from dit360_model_qwen.pipelines import NEIGHBOURS, PIPELINES, TITLE, TRANSFORMERS


def _load() -> Any:
    from dit360_model_qwen.architecture import QWEN_IMAGE  # only where a model is looked at

    return QWEN_IMAGE


@hookimpl
def dit360_architectures() -> Iterable[ModelFamily]:
    yield ModelFamily(
        name="qwen",
        api=1,
        title=TITLE,
        summary="Qwen-Image and Qwen-Image-2512",
        requires=("diffusers>=0.42",),
        # Those that are not run are told what they are by the family itself.
        pipelines=(*PIPELINES, *NEIGHBOURS),
        transformers=TRANSFORMERS,
        load=_load,
    )


@hookimpl
def dit360_models() -> Iterable[Model]:
    yield QWEN_360
