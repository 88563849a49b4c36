"""Writes a GGUF file of one part, as stable-diffusion.cpp and ComfyUI-GGUF read it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from dit360_core.models.running import About, Outgoing, Packed
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

from dit360_format_gguf.decoding import decode
from dit360_format_gguf.k_types import BLOCK, encoded
from dit360_format_gguf.names import T5_ENCODER, written_names

FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
"""Type → that of rows that are no multiple of 256. llama.cpp has IQ4_NL for the last two, which is not written here."""
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float32}
"""Form → what a tensor is written in: ComfyUI and stable-diffusion.cpp read no F64."""
_SMALL = 4096
"""Numbers of a tensor up to which they are written in F32, as norms and biases are, which take no room."""
_ARCHITECTURES = {"flux": "flux", "flux2": "flux", "qwen": "qwen_image"}
"""Family → what ComfyUI-GGUF calls it; others by their own name."""


class GgufWriter:
    """See :class:`dit360_core.models.running.WeightsWriter`."""

    def form_for(self, form: str, shape: tuple[int, ...]) -> str:
        wanted = FALLBACK[form] if form in FALLBACK and shape[-1] % BLOCK else form
        return wanted if shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[wanted]][0] == 0 else "F16"

    def bytes_of(self, form: str, shape: tuple[int, ...]) -> int:
        block, width = GGML_QUANT_SIZES[_kind(form, shape)]
        return math.prod(shape) // block * width

    def notes(self, about: About) -> Iterator[str]:
        """What ComfyUI will say: it reads the architectures of a list, which has no other."""
        if about.part == "transformer" and about.family not in _ARCHITECTURES:
            yield f"ComfyUI-GGUF knows no architecture {about.family!r}, and does not read this file"

    def write(self, file: Path, tensors: Sequence[Outgoing], about: About) -> Iterator[torch.Tensor | Packed]:
        names = written_names([one.name for one in tensors])
        t5 = any(name != names[name] for name in names)
        writer = GGUFWriter(file, T5_ENCODER if t5 else _ARCHITECTURES.get(about.family, about.family))
        with contextlib.closing(writer):
            writer.add_quantization_version(2)
            writer.add_file_type(_file_type(about.form))
            for key, text in about.metadata.items():
                writer.add_string(key, text)
            for one in tensors:
                kind = _kind(one.form, one.shape)
                writer.add_tensor_info(
                    names[one.name], one.shape, _NO_NUMBERS, self.bytes_of(one.form, one.shape), raw_dtype=kind
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for one in tensors:
                stored, data = _stored(one.read(), one.form, one.shape)
                writer.write_tensor_data(data)
                del data
                yield stored
                del stored


_NO_NUMBERS: Any = None
"""Where the type itself is given, the package asks no more of what a tensor has."""


def _kind(form: str, shape: tuple[int, ...]) -> GGMLQuantizationType:
    if form in _PLAIN and (len(shape) < 2 or math.prod(shape) <= _SMALL):
        return GGMLQuantizationType.F32
    return GGMLQuantizationType["F32" if form == "F64" else form]


def _stored(numbers: torch.Tensor, form: str, shape: tuple[int, ...]) -> tuple[torch.Tensor | Packed, Any]:
    """A tensor as it is stored, and its bytes for the package."""
    kind = _kind(form, shape)
    if kind.name in _PLAIN:
        plain = numbers.to(_PLAIN[kind.name]).contiguous()
        return plain, plain.reshape(-1).view(torch.uint8).numpy()
    wide = numbers.float()
    if kind.name in FALLBACK:
        bytes_ = encoded(wide, kind.name)
    else:
        bytes_ = torch.from_numpy(quants.quantize(wide.numpy(), kind))
    return Packed(form=kind.name, shape=shape, tensors=(bytes_,), decode=decode(int(kind))), bytes_.numpy()


def _file_type(form: str) -> LlamaFileType:
    """What a header says of the whole: of the K types, that all of it is in the same."""
    names = (f"MOSTLY_{form}", f"MOSTLY_{form}_S", f"ALL_{form}")
    return next((LlamaFileType[name] for name in names if name in LlamaFileType.__members__), LlamaFileType.GUESSED)
