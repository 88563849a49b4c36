"""Qwen-Image in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.plugins import Model, hookimpl

from dit360_model_qwen.named import QWEN_360


@hookimpl
def dit360_models() -> Iterable[Model]:
    yield QWEN_360
