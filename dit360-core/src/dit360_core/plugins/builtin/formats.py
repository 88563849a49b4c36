"""The form of files with weights that the core itself reads."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any

from dit360_core.plugins import WeightsFormat, hookimpl


def _safetensors() -> Any:
    # By name, as an installed plugin is: the rooms of models stand upon this one.
    where = "dit360_core.models.weights.forms.safetensors_file:SafetensorsFile"
    return EntryPoint("safetensors", where, "dit360").load()


@hookimpl
def dit360_formats() -> Iterable[WeightsFormat]:
    yield WeightsFormat(
        name="safetensors",
        api=1,
        summary="safetensors: in full, fp8 with and without scales, ComfyUI's int8",
        suffixes=(".safetensors", ".sft"),
        load=_safetensors,
    )
