"""Writes a safetensors file as ComfyUI has them: in full, in fp8 with a scale, or in int8 with a scale a row.

The header comes first and holds where each tensor lies, which is known before any is read. So none waits in memory for
the others, as ``safetensors.torch.save_file`` would have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import torch

from dit360_core.models.weights.forms.description import PLAIN
from dit360_core.models.weights.forms.fp8_int8 import eight_bits, hadamard, turned
from dit360_core.models.weights.forms.mapped import DTYPES
from dit360_core.models.weights.forms.outgoing import About, Outgoing
from dit360_core.models.weights.forms.packed import Packed

_GROUP = 256
"""Columns that are turned together, as ComfyUI has it; fewer where they do not fit."""
_LEAST = 1e-12
"""The least scale, for what is 0."""


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class SafetensorsWriter:
    """See :class:`~dit360_core.models.weights.forms.outgoing.WeightsWriter`."""

    def form_for(self, form: str, shape: tuple[int, ...]) -> str:
        if form == "int8-convrot" and _group(shape) is None:
            return "int8"
        return form

    def bytes_of(self, form: str, shape: tuple[int, ...]) -> int:
        return sum(entry.bytes for entry in _entries("x.weight", form, shape))

    def write(self, file: Path, tensors: Sequence[Outgoing], about: About) -> Iterator[torch.Tensor | Packed]:
        entries = [entry for one in tensors for entry in _entries(one.name, one.form, one.shape)]
        if any(one.form == "fp8" for one in tensors):
            # Says that there are scales; that there are two numbers in it, that inputs are not to be rounded.
            entries.append(_Entry("scaled_fp8", "F8_E4M3", (2,)))
        # The widest first, so that each begins at a multiple of its size.
        ordered = sorted(entries, key=lambda entry: (-DTYPES[entry.dtype].itemsize, entry.name))
        begin: dict[str, int] = {}
        at = 0
        for entry in ordered:
            begin[entry.name] = at
            at += entry.bytes
        header: dict[str, object] = {"__metadata__": {"format": "pt", **about.metadata}}
        header |= {
            entry.name: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [begin[entry.name], begin[entry.name] + entry.bytes],
            }
            for entry in ordered
        }  # fmt: skip
        told = json.dumps(header, separators=(",", ":")).encode()
        told += b" " * (-len(told) % 8)
        with file.open("wb") as opened:
            opened.write(len(told).to_bytes(8, "little") + told)
            start = opened.tell()
            opened.truncate(start + at)  # zeros, as scaled_fp8 has

            def put(name: str, tensor: torch.Tensor) -> None:
                _put(opened, start + begin[name], tensor)

            for one in tensors:
                numbers = one.read()
                if one.form in PLAIN:
                    plain = numbers.to(DTYPES[one.form])
                    put(one.name, plain)
                    del numbers
                    yield plain
                    del plain
                    continue
                packed = _packed(numbers.float(), one.form)
                layer = one.name.removesuffix(".weight")
                put(one.name, packed.tensors[0])
                if one.form == "fp8":
                    put(f"{layer}.scale_weight", packed.tensors[1][0])
                else:
                    put(f"{layer}.weight_scale", packed.tensors[1])
                    put(f"{layer}.comfy_quant", _mark(one.form, one.shape))
                del numbers
                yield packed
                del packed


def _group(shape: tuple[int, ...]) -> int | None:
    """Columns of a matrix that are turned together: a power of four that divides them; None: there is none."""
    return next((group for group in (_GROUP, 64, 16) if shape[-1] % group == 0), None)


def _entries(name: str, form: str, shape: tuple[int, ...]) -> list[_Entry]:
    """The tensors of a file that make one of the part's."""
    if form in PLAIN:
        return [_Entry(name, form, shape)]
    layer = name.removesuffix(".weight")
    if form == "fp8":
        return [_Entry(name, "F8_E4M3", shape), _Entry(f"{layer}.scale_weight", "F32", ())]
    return [
        _Entry(name, "I8", shape),
        _Entry(f"{layer}.weight_scale", "F32", (shape[0], 1)),
        _Entry(f"{layer}.comfy_quant", "U8", (len(_mark(form, shape)),)),
    ]


def _mark(form: str, shape: tuple[int, ...]) -> torch.Tensor:
    """What ComfyUI reads beside a matrix in int8."""
    told: dict[str, object] = {"format": "int8_tensorwise"}
    if form == "int8-convrot":
        told |= {"convrot": True, "convrot_groupsize": _group(shape)}
    return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)


def _packed(weight: torch.Tensor, form: str) -> Packed:
    """A matrix ``(rows, columns)`` in float32, in eight bits."""
    shape = tuple(weight.shape)
    if form == "fp8":
        scale = (weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max).clamp_min(_LEAST)
        stored = (weight / scale).to(torch.float8_e4m3fn)
        return Packed(form=form, shape=shape, tensors=(stored, scale.expand(shape[0])), decode=eight_bits)
    group = _group(shape) if form == "int8-convrot" else None
    if group is not None:
        weight = (weight.view(-1, group) @ hadamard(group).T).view(shape)
    scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_min(_LEAST)
    stored = (weight / scale).round_().clamp_(-127, 127).to(torch.int8)
    decode = eight_bits if group is None else turned(group)
    return Packed(form=form, shape=shape, tensors=(stored, scale), decode=decode)


def _put(opened: IO[bytes], at: int, tensor: torch.Tensor) -> None:
    opened.seek(at)
    opened.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
