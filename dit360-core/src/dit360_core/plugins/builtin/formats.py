"""The form of files with weights that the core itself reads."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any

from dit360_core.plugins import WeightsFormat, WrittenForm, hookimpl


def _safetensors() -> Any:
    return _named("safetensors_file:SafetensorsFile")


def _writer() -> Any:
    return _named("safetensors_writer:SafetensorsWriter")()


def _named(what: str) -> Any:
    # As an installed plugin is: the rooms of models stand upon this one.
    return EntryPoint("safetensors", f"dit360_core.models.weights.forms.{what}", "dit360").load()


@hookimpl
def dit360_formats() -> Iterable[WeightsFormat]:
    yield WeightsFormat(
        name="safetensors",
        api=1,
        summary="safetensors: in full, fp8 with and without scales, ComfyUI's int8",
        suffixes=(".safetensors", ".sft"),
        load=_safetensors,
        writes=(
            # ComfyUI before its mixed precision has all layers of a scaled file in fp8, whatever they are in it.
            WrittenForm(name="fp8", bits=8.0, every_layer=True),
            WrittenForm(name="int8", bits=8.1),
            WrittenForm(name="int8-convrot", bits=8.1),
        ),
        writer=_writer,
    )
