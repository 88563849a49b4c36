"""GGUF files in dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.plugins import WeightsFormat, WrittenForm, hookimpl


def _load() -> Any:
    from dit360_format_gguf.file import GgufFile  # only where a file is opened

    return GgufFile


def _writer() -> Any:
    from dit360_format_gguf.writing import GgufWriter  # only where a file is written

    return GgufWriter()


WRITTEN = {
    "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6.0, "Q5_0": 5.5, "Q4_K": 4.5, "Q4_1": 5.0, "Q4_0": 4.5,
    "Q3_K": 3.4375, "Q2_K": 2.625,
}  # fmt: skip
"""Type → bits of a number."""


@hookimpl
def dit360_formats() -> Iterable[WeightsFormat]:
    yield WeightsFormat(
        name="gguf",
        api=1,
        summary="GGUF: weights in two to eight bits, by blocks of rows",
        requires=("gguf>=0.17", "diffusers>=0.36"),
        suffixes=(".gguf",),
        load=_load,
        writes=tuple(WrittenForm(name=name, bits=bits) for name, bits in WRITTEN.items()),
        writer=_writer,
    )
