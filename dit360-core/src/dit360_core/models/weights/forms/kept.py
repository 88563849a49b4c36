"""A part whose layers compute from the bits of its file: nothing of it is turned back but what is being computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from dit360_core.errors import ModelError
from dit360_core.models.architecture import Architecture, Networks
from dit360_core.models.weights.conversion import Converted, Layer, bytes_of
from dit360_core.models.weights.forms.manifest import Manifest, manifest_in
from dit360_core.models.weights.forms.packed import AT_ONCE, packed_layer
from dit360_core.models.weights.forms.reading import FileTensors
from dit360_core.models.weights.forms.trial import check_packed
from dit360_core.models.weights.stream import Piece, assemble, dtype_of, held
from dit360_core.plugins.offers import LayerNeed

_WORKING = 16
"""Bytes for each number that is turned back, while it is: float32, what lies between, and the result."""


@attrs.frozen(kw_only=True)
class Kept:
    """A part that is kept as a file has it.

    layers: name → bits of a weight, scales included.
    forms: form → how many of them are in it.
    reader: address of what reads the file.
    """

    part: str
    file: Path
    reader: str
    layers: Mapping[str, float]
    forms: Mapping[str, int]

    def sentence(self) -> str:
        """The file and its forms, without an end."""
        forms = ", ".join(f"{count} layers in {form}" for form, count in self.forms.items())
        return f"{self.file.name} as it is, {forms}, {sum(self.layers.values()) / len(self.layers):.1f} bits a weight"

    @property
    def form(self) -> str:
        """That of most layers."""
        return max(self.forms, key=lambda form: self.forms[form])


def kept_parts(architecture: Architecture, folder: Path) -> dict[str, Kept]:
    """The parts of a model's folder whose file has them in fewer bits. Raises ModelError."""
    found = {}
    for part in architecture.quantized_by("both"):
        manifest = manifest_in(folder / part)
        if manifest is not None and (layers := _layers(manifest)):
            forms = Counter(manifest.tensors[f"{name}.weight"].form for name in layers)
            found[part] = Kept(part=part, file=manifest.file, reader=manifest.reader, layers=layers, forms=dict(forms))
    return found


def _layers(manifest: Manifest) -> dict[str, float]:
    found = {}
    for name, origin in manifest.tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and len(origin.shape) == 2 and origin.form in manifest.packed:
            found[layer] = 8 * origin.bytes / (origin.shape[0] * origin.shape[1])
    return found


def scratch(need: LayerNeed) -> int:
    """Bytes that a layer takes for itself while it computes."""
    numbers = need.inputs * need.outputs
    at_once = AT_ONCE.get(need.device, AT_ONCE["else"])
    return _WORKING * min(numbers, max(need.inputs, at_once))


def load_kept(
    networks: Networks, kept: Kept, folder: Path, dtype: torch.dtype, *, home: torch.device
) -> tuple[torch.nn.Module, Converted]:
    """A part with layers that compute from what the file holds.

    folder: the part's.
    home: where it rests.
    """
    module = networks.empty(kept.part, folder)
    manifest = manifest_in(folder)
    assert manifest is not None
    tensors = FileTensors(folder, manifest)

    def found() -> Iterator[Piece]:
        done: set[str] = set()
        tried: set[str] = set()
        for name in kept.layers:
            like: Any = module.get_submodule(name)
            packed = tensors.packed(f"{name}.weight")
            if packed is None or not isinstance(like, torch.nn.Linear | torch.nn.Embedding):
                continue
            if packed.shape != tuple(like.weight.shape):
                raise ModelError(f"{kept.file} holds another model's {name}; load the model anew.")
            if packed.form not in tried:
                check_packed(packed, name, kept.file, kept.reader)
                tried.add(packed.form)
            wanted = dtype_of(module, f"{name}.weight", dtype)
            bias = tensors.read(f"{name}.bias").to(wanted) if f"{name}.bias" in tensors else None
            before = wanted.itemsize * (like.weight.numel() + (0 if bias is None else bias.numel()))
            layer = packed_layer(like, packed, bias, wanted)
            done |= {f"{name}.weight", f"{name}.bias"}
            yield Piece(
                name,
                layer.to(home),
                Layer(
                    name=name,
                    kernel=packed.form,
                    one_token=False,
                    bytes_before=before,
                    bytes=bytes_of(layer),
                    error=None,
                ),
            )
        for name in held(module):
            if name in done or name not in tensors:
                continue
            tensor = networks.as_read(kept.part, tensors.read(name))
            wanted = dtype_of(module, name, dtype) if tensor.is_floating_point() else tensor.dtype
            yield Piece(name, tensor.to(home, wanted))

    layers = assemble(networks, module, kept.part, found(), dtype)
    return module, Converted(part=kept.part, layers=layers, left={}, file=f"{kept.file.name}, read by {kept.reader}")
