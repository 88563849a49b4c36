"""A GGUF file: its tensors as they are described, and as blocks of rows that compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dit360_core.models.family import Described
from dit360_core.plugins import ModelError
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dit360_format_gguf.header import Entry, read_header
from dit360_format_gguf.names import model_names

if TYPE_CHECKING:
    import torch
    from dit360_core.models.running import Packed

_PLAIN = {
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
}
READ = (
    "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
"""Types in fewer bits."""
_SHAPES = "comfy.gguf.orig_shape."
"""Key → the shape of a tensor that was stored in another one."""


class GgufFile:
    """See :class:`dit360_core.models.family.WeightsFile`. Raises ModelError for a file that is damaged."""

    def __init__(self, file: Path) -> None:
        self.file = file
        header = read_header(file)
        self._names = {here: there for there, here in model_names(header.entries).items()}
        self._entries = {here: header.entries[there] for here, there in self._names.items()}
        self.unused: Mapping[str, str] = {}
        self.metadata: Mapping[str, str] = {
            name: str(value) for name, value in header.values.items() if isinstance(value, str | int | float)
        }
        self._shapes = {
            name.removeprefix(_SHAPES): tuple(value)
            for name, value in header.values.items()
            if name.startswith(_SHAPES) and isinstance(value, list)
        }
        size = file.stat().st_size
        self.tensors: Mapping[str, Described] = {
            name: self._described(name, entry, size) for name, entry in self._entries.items()
        }

    def _described(self, name: str, entry: Entry, size: int) -> Described:
        try:
            kind = GGMLQuantizationType(entry.kind)
            block, width = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise ModelError(
                f"{self.file} has {name} in a type of the number {entry.kind}, which nobody here knows; take a file in "
                "Q4_K, or update gguf."
            ) from error
        if entry.shape[-1] % block:
            raise ModelError(
                f"{self.file} is damaged: {name} has rows of {entry.shape[-1]} in blocks of {block}; download it again."
            )
        count = math.prod(entry.shape) // block * width
        if entry.begin + count > size:
            raise ModelError(f"{self.file} is cut off: {name} reaches beyond its end; download it again.")
        if kind not in _PLAIN and kind.name not in READ:
            raise ModelError(
                f"{self.file} has {name} in {kind.name}, which dit360 does not read; take a file in one of "
                f"{', '.join(READ)}."
            )
        shape = self._shapes.get(self._names[name], entry.shape)
        whole = all(type(length) is int and length > 0 for length in shape)
        if not whole or math.prod(shape) != math.prod(entry.shape):
            raise ModelError(
                f"{self.file} says that {name} has the shape {list(shape)!r:.80}, and holds {math.prod(entry.shape)} "
                "numbers; download it again."
            )
        return Described(form=kind.name, shape=shape, bytes=count)

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor, on the mapped file."""
        import torch
        from dit360_core.models.running import Packed, mapped

        from dit360_format_gguf.decoding import decode

        entry, about = self._entries[name], self.tensors[name]
        flat = mapped(self.file, entry.begin, about.bytes)
        kind = GGMLQuantizationType(entry.kind)
        if kind in _PLAIN:
            return flat.view(getattr(torch, _PLAIN[kind])).view(about.shape)
        rows = math.prod(entry.shape[:-1])
        packed = Packed(
            form=kind.name, shape=(rows, entry.shape[-1]), tensors=(flat.view(rows, -1),), decode=decode(int(kind))
        )
        # One that was folded into rows of blocks is to be had in full only.
        return packed if about.shape == packed.shape else packed.dense(torch.float32).view(about.shape)
