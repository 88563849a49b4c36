"""Fits what is in the file of a LoRA to a model: layer by layer, with nothing left unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from dit360_core.errors import ModelError, setting
from dit360_core.models.architecture import Architecture
from dit360_core.models.lora import keys as lora_keys
from dit360_core.models.lora.factors import Factors, together
from dit360_core.models.lora.file import Entry, LoraFile, in_words

NOT_THERE = "are for layers that this model does not have"
NO_BIAS = "are biases of layers that have none in this model"
TWICE = "are there a second time under another name and count once"


@attrs.frozen(kw_only=True, eq=False)
class Lora:
    """A LoRA as far as it belongs to a model.

    architecture: the model's family.
    layers: part → name of a layer there → what is added to it.
    used: how many of the file's tensors are in it.
    tensors: how many there are.
    remarks: what is to be told.
    """

    architecture: Architecture
    file: Path
    layers: Mapping[str, Mapping[str, Factors]]
    used: int
    tensors: int
    remarks: tuple[str, ...] = ()

    @property
    def modules(self) -> int:
        """How many layers it changes."""
        return sum(len(layers) for layers in self.layers.values())

    def of(self, part: str) -> Mapping[str, Factors]:
        """What it adds to a part of the model."""
        return self.layers.get(part, {})

    @property
    def zero(self) -> bool:
        return all(factors.zero for layers in self.layers.values() for factors in layers.values())

    def check_beside(self) -> None:
        """Raises ModelError if not all of it can be kept beside weights."""
        for part, layers in self.layers.items():
            for name, factors in layers.items():
                if not factors.plain:
                    own = self.architecture.part(part).short
                    raise ModelError(
                        f"{self.file} holds weights that stand in the place of the {own}'s own ({name}), "
                        f"which cannot be kept beside them; use {setting('lora_mode', 'fuse')}, or give another file."
                    )


def fitted(found: LoraFile, modules: Mapping[str, torch.nn.Module]) -> Lora:
    """What of a file belongs to a model.

    modules: its parts that the file changes, which may be on the meta device.

    Raises ModelError if nothing fits, or if shapes differ.
    """
    return fitted_to(found, {part: dict(module.named_modules()) for part, module in modules.items()})


def fitted_to(found: LoraFile, there: Mapping[str, Mapping[str, Any]]) -> Lora:
    """As :func:`fitted`.

    there: part → name of a layer → something that has its ``weight`` and ``bias``.
    """
    layers: dict[str, dict[str, list[Factors]]] = {}
    widened: list[str] = []
    left: dict[str, list[str]] = {why: list(keys) for why, keys in found.unread.items()}
    for entry in found.entries:
        part = entry.target.part
        prefixes = found.architecture.part(part).prefixes
        names = [_name_in(there.get(part, {}), name, prefixes) for name in entry.target.modules]
        if not all(names):
            left.setdefault(NOT_THERE, []).extend(entry.keys)
            continue
        owners = [there[part][name] for name in names if name is not None]
        entry = _widened(found, entry, str(names[0]), owners[0], widened)
        pieces, lost = _pieces(found.file, entry, owners)
        for key in lost:
            left.setdefault(NO_BIAS, []).append(key)
        for name, piece in zip(names, pieces, strict=True):
            others = layers.setdefault(part, {}).setdefault(str(name), [])
            if any(_same(piece, other) for other in others):
                left.setdefault(TWICE, []).extend(key for key in entry.keys if key not in left.get(TWICE, ()))
            else:
                others.append(piece)
    if not layers:
        raise ModelError(
            f"{found.file} does not fit this model: none of its {len(found.entries)} layers is in it (the first is "
            f"{found.entries[0].stem!r:.100}); give a LoRA made for it."
        )
    used = found.tensors - sum(map(len, left.values()))
    told = (
        [f"{found.file}: of its {found.tensors} tensors {in_words(left)}; the other {used} are used."] if left else []
    )
    return Lora(
        architecture=found.architecture,
        file=found.file,
        layers={
            part: {name: together(layers[part][name]) for name in sorted(layers[part])} for part in sorted(layers)
        },
        used=used,
        tensors=found.tensors,
        remarks=(*found.remarks, *widened, *told),
    )  # fmt: skip


def _name_in(there: Mapping[str, Any], name: str, prefixes: Sequence[str]) -> str | None:
    """As the model calls a layer: transformers has some models as a part of a whole, or alone without the prefix."""
    return next((each for each in (name, *(name.removeprefix(one) for one in prefixes)) if each in there), None)


def _widened(found: LoraFile, entry: Entry, name: str, owner: Any, remarks: list[str]) -> Entry:
    """A layer for all the inputs that it has here, where the file was made for a model in which it has only the first.

    remarks: what is to be told of that is put there.
    """
    made, shape = entry.factors.weight_shape(), tuple(getattr(getattr(owner, "weight", None), "shape", ()))
    if made is None or len(made) != 2 or len(shape) != 2 or made[1] == shape[1] or entry.factors.new_weight is not None:
        return entry
    if made[1] != found.architecture.first_inputs(entry.target.part, name, shape[1]):
        return entry
    remarks.append(
        f"{found.file}: its layer {entry.stem} was trained with {made[1]} inputs, the noise, of {shape[1]} that this "
        "model has; what the others do stays as it is."
    )
    return attrs.evolve(entry, factors=entry.factors.with_inputs(shape[1]))


def _pieces(file: Path, entry: Entry, owners: list[Any]) -> tuple[list[Factors], list[str]]:
    """The factors of each of the layers that were trained as one, and the tensors that are for a bias not there."""
    factors = entry.factors.with_halves_swapped() if entry.target.halves_swapped else entry.factors
    shapes = [tuple(getattr(owner.weight, "shape", ())) if hasattr(owner, "weight") else () for owner in owners]
    whole = (sum(shape[0] for shape in shapes if shape), *shapes[0][1:])
    made = factors.weight_shape()
    if not all(shapes) or factors.outputs != whole[0] or made not in (None, whole):
        raise ModelError(
            f"{file} was made for another model: its layer {entry.stem} is of the shape "
            f"{_shape(made or (factors.outputs,))}, and this model's of {_shape(whole)}; give a LoRA made for this one."
        )
    lost: list[str] = []
    if any(getattr(owner, "bias", None) is None for owner in owners) and (
        factors.bias is not None or factors.new_bias is not None
    ):
        lost = [
            key for key in entry.keys
            if (parsed := lora_keys.parse(key)) is not None
            and parsed.kind in (lora_keys.UP_BIAS, lora_keys.DOWN_BIAS, lora_keys.DIFF_BIAS, lora_keys.NEW_BIAS)
        ]  # fmt: skip
        factors = attrs.evolve(factors, bias=None, new_bias=None)
    pieces, start = [], 0
    for shape in shapes:
        pieces.append(factors if len(shapes) == 1 else factors.rows(start, start + shape[0]))
        start += shape[0]
    return pieces, lost


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "no weights"


def _same(one: Factors, other: Factors) -> bool:

    def equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        return a is b or (a is not None and b is not None and a.shape == b.shape and bool((a == b).all()))

    return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in attrs.fields(Factors))
