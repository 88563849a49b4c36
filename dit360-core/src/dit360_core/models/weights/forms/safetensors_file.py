"""A safetensors file in any of the forms that people have: plain, fp8 with or without scales, ComfyUI's int8."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit360_core.errors import ModelError
from dit360_core.models.weights.forms.description import PLAIN, Described
from dit360_core.models.weights.headers import Entry, header, text_metadata

if TYPE_CHECKING:
    import torch

    from dit360_core.models.weights.forms.packed import Packed

_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES = (".scale_weight", ".weight_scale")
_OF_INPUTS = (".scale_input", ".input_scale")
"""Scales that activations would be rounded with, where they were."""
_MARK, _NOTE = ".comfy_quant", "scaled_fp8"
_FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_INT8_FORMAT = "int8_tensorwise"
_LONGEST_MARK = 4096
_LONGEST_NAME = 512
_ELSEWHERE = (
    (r"\.(qweight|wscales|smooth_factor|smooth_factor_orig|proj_down|wzeros|wcscales|wtscale)$",
     "is quantized by Nunchaku (SVDQuant), which computes with kernels of its own"),
    (r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB)$|\.quant_state\.", "is quantized by bitsandbytes"),
    (r"\.(qzeros|g_idx|weight_packed)$", "is quantized in the manner of GPTQ or AWQ"),
    (r"\.weight_scale_2$", "is quantized as nvfp4, in pairs of four bits with two scales, for Blackwell cards"),
)  # fmt: skip
INSTEAD = "take its fp8 or GGUF file instead, or the original"


class SafetensorsFile:
    """See :class:`~dit360_core.models.weights.forms.description.WeightsFile`.

    Raises ModelError for a file that is damaged, or in a form that means nothing here.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries = header(file)
        self.metadata: Mapping[str, str] = text_metadata(file)
        odd = next((name for name in self._entries if not name.isprintable() or len(name) > _LONGEST_NAME), None)
        if odd is not None:
            raise ModelError(f"{file} has a tensor whose name cannot be shown ({odd!r:.80}); download it again.")
        self._refuse_others()
        self._told = dict(self._marks())
        self._scales: dict[str, str] = {}
        self.unused: Mapping[str, str] = {
            name: "a scale of inputs, which are not rounded here" for name in self._entries if name.endswith(_OF_INPUTS)
        }
        taken: set[str] = set()
        for name in self._entries:
            if name.endswith(_SCALES):
                owner = f"{name.rpartition('.')[0]}.weight"
                if owner in self._entries:  # one without is strange
                    self._scales[owner] = name
                    taken.add(name)
            elif name.endswith(_OF_INPUTS) or name.endswith(_MARK) or name.rpartition(".")[2] == _NOTE:
                taken.add(name)
        self.tensors: Mapping[str, Described] = {
            name: self._described(name, entry) for name, entry in self._entries.items() if name not in taken
        }

    # ---------------------------------------------------------------------------------------------------- the header

    def _refuse_others(self) -> None:
        for name, entry in self._entries.items():
            what = next((what for pattern, what in _ELSEWHERE if re.search(pattern, name)), None)
            if what is None and entry.dtype == "F8_E8M0":
                what = "is quantized as mxfp8, with a shared exponent for 32 numbers, for Blackwell cards"
            if what is not None:
                raise ModelError(f"{self.file} {what} ({name}), and dit360 does not read that; {INSTEAD}.")

    def _marks(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Layer → what ComfyUI says of it, in its own tensor or in the header."""
        for name, entry in self._entries.items():
            if name.endswith(_MARK):
                yield name.removesuffix(_MARK), self._mark(name, entry)
        central = self.metadata.get("_quantization_metadata")
        if central is None:
            return
        try:
            layers = json.loads(central).get("layers", {})
            found = {str(layer): dict(told) for layer, told in layers.items()}
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{self.file} says in _quantization_metadata what cannot be read ({error}); download it again."
            ) from error
        known = {name.removesuffix(".weight") for name in self._entries if name.endswith(".weight")}
        for layer, told in found.items():
            # Some leave out what all names begin with.
            for name in known:
                if name == layer or name.endswith(f".{layer}"):
                    yield name, told

    def _mark(self, name: str, entry: Entry) -> Mapping[str, Any]:
        if entry.dtype != "U8" or entry.end - entry.begin > _LONGEST_MARK:
            raise ModelError(f"{self.file} has a mark {name} that is no text; download it again.")
        with self.file.open("rb") as opened:
            opened.seek(entry.begin)
            told = opened.read(entry.end - entry.begin)
        if not any(told):  # some write it empty
            return {}
        try:
            found = json.loads(told.decode("utf-8").strip("\0"))
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{self.file} has a mark {name} that cannot be read ({error}); download it again."
            ) from error
        return found

    def _described(self, name: str, entry: Entry) -> Described:
        size, shape, scale = entry.end - entry.begin, entry.shape, self._scales.get(name)
        told = self._told.get(name.removesuffix(".weight"), {}) if name.endswith(".weight") else {}
        format_ = told.get("format")
        if entry.dtype in PLAIN:
            if scale is not None:
                self._check_scale(name, scale)
            return Described(form=entry.dtype, shape=shape, bytes=size)
        if format_ is not None and format_ not in (*_FP8_FORMATS, _INT8_FORMAT):
            raise ModelError(
                f"{self.file} is quantized as {format_!r:.40} ({name}), and dit360 does not read that; {INSTEAD}."
            )
        if scale is not None:
            self._check_scale(name, scale)
            size += self._entries[scale].end - self._entries[scale].begin
        if entry.dtype in _FP8 and format_ in (None, *_FP8_FORMATS) and not told.get("convrot"):
            form = "fp8" if scale is None else "scaled fp8"
            return Described(form=form, shape=shape, bytes=size)
        if entry.dtype == "I8" and scale is not None and len(shape) == 2 and format_ in (None, _INT8_FORMAT):
            group = self._group(name)
            form = "int8" if group is None else f"int8 turned by {group}"
            return Described(form=form, shape=shape, bytes=size)
        if format_ is not None:
            held = f"{entry.dtype} of the shape {list(shape)} {'without' if scale is None else 'with'} a scale"
            raise ModelError(
                f"{self.file} says that {name} is stored as {format_}, and holds {held}; download it again."
            )
        return Described(form=entry.dtype, shape=shape, bytes=size, known=False)

    def _check_scale(self, name: str, scale: str) -> None:
        entry, rows = self._entries[scale], self._entries[name].shape[:1]
        if entry.dtype not in PLAIN or math.prod(entry.shape) not in (1, *rows):
            raise ModelError(
                f"{self.file} has scales {scale} of the shape {list(entry.shape)} in {entry.dtype}, where one for all "
                f"or one for each of {rows[0] if rows else 0} rows belongs; {INSTEAD}."
            )

    def _group(self, name: str) -> int | None:
        told = self._told.get(name.removesuffix(".weight"), {})
        if not told.get("convrot"):
            return None
        group, columns = told.get("convrot_groupsize", 256), self._entries[name].shape[-1]
        powers = [4**n for n in range(1, 8)]
        if isinstance(group, bool) or group not in powers or columns % group:
            raise ModelError(
                f"{self.file} says that {name} was turned in groups of {group!r:.20} columns, which cannot be of "
                f"{columns}; download it again."
            )
        return int(group)

    # ------------------------------------------------------------------------------------------------------- numbers

    def read(self, name: str) -> torch.Tensor | Packed:
        """See :class:`WeightsFile`. Raises ModelError for numbers that mean nothing here."""

        from dit360_core.models.weights.forms.fp8_int8 import eight_bits, turned
        from dit360_core.models.weights.forms.packed import Packed

        about, tensor = self.tensors[name], self._numbers(name)
        if not about.packed and name not in self._scales:
            return tensor
        scale = self._numbers(self._scales[name]).float() if name in self._scales else None
        if not about.packed and scale is not None:
            wide: torch.Tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
            return wide
        tensors: tuple[torch.Tensor, ...] = (tensor,)
        if scale is not None:
            if not bool(scale.isfinite().all()):
                raise ModelError(f"{self.file} has scales of {name} that are not finite; download it again.")
            tensors += (scale.reshape(-1).expand(len(tensor)) if tensor.ndim else scale.reshape(-1),)
        group = self._group(name) if name.endswith(".weight") else None
        decode = eight_bits if group is None else turned(group)
        return Packed(form=about.form, shape=about.shape, tensors=tensors, decode=decode)

    def _numbers(self, name: str) -> torch.Tensor:
        # By hand: opened by safetensors, the whole header is read for every tensor.
        from dit360_core.models.weights.forms.mapped import DTYPES, numbers

        entry = self._entries[name]
        if entry.dtype not in DTYPES:
            raise ModelError(f"{self.file} holds {name} in {entry.dtype}, which means nothing here; {INSTEAD}.")
        return numbers(self.file, entry.begin, entry.shape, DTYPES[entry.dtype])
