"""GGUF files in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.plugins import WeightsFormat, hookimpl


def _load() -> Any:
    from dit360_format_gguf.file import GgufFile  # only where a file is opened

    return GgufFile


@hookimpl
def dit360_formats() -> Iterable[WeightsFormat]:
    yield WeightsFormat(
        name="gguf",
        api=1,
        summary="GGUF: weights in two to eight bits, by blocks of rows",
        requires=("gguf>=0.17", "diffusers>=0.36"),
        suffixes=(".gguf",),
        load=_load,
    )
