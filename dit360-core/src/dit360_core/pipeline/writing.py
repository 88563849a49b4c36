"""A part of a model becomes one file that other programs read as well: ComfyUI, stable-diffusion.cpp."""

from __future__ import annotations

import functools
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
from torch.nn.functional import linear as multiply

from dit360_core.errors import Dit360Error, InputError, ModelError, named, one_line
from dit360_core.models.architecture import DENOISER, Architecture
from dit360_core.models.architecture import Part as Described
from dit360_core.models.from_files import config_told
from dit360_core.models.lora.fusing import Applied, Fusion
from dit360_core.models.original_names import Original
from dit360_core.models.settings import HASH, IN_A_FILE, hash_of, settings_in, settings_of, without_folders
from dit360_core.models.weights.conversion import WRONG, Converted, Layer, trial_tokens
from dit360_core.models.weights.forms.description import PLAIN, WeightsFile
from dit360_core.models.weights.forms.mapped import DTYPES
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.models.weights.forms.outgoing import About, Outgoing, WeightsWriter
from dit360_core.models.weights.forms.packed import Packed, PackedLinear
from dit360_core.models.weights.forms.reading import FileTensors
from dit360_core.models.weights.forms.renaming import part_in_file
from dit360_core.models.weights.selection import Policy, selections
from dit360_core.models.weights.stream import Part, held, part_of, shaped, wanted_of
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.prepared import Prepared, state_of
from dit360_core.pipeline.state import State
from dit360_core.planning.loras import LoraUse
from dit360_core.planning.written import written_form
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import WrittenForm
from dit360_core.plugins.registry import Registry
from dit360_core.system.atomic import write_atomic
from dit360_core.system.machine import Machine
from dit360_core.system.memory import explain_full_memory, give_back_freed_memory

Made = TypeVar("Made")
_IN_FULL = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_WIDEST = ("F64", "F32", "BF16", "F16")
_ROWS = 512
"""Of a matrix that are looked at together."""


def write_file(
    asked: LoadOptions,
    target: Path,
    entry: Entry,
    *,
    registry: Registry,
    machine: Machine | None,
    progress: Callable[[str, int, int], None] | None,
) -> State:
    """Writes a part of a model, with its LoRA fused, into one file. Returns what was done.

    asked: as for :func:`dit360_core.quantize`; ``quantization_parts`` ``both`` is the transformer alone.
    target: path of the new file, which must not exist.
    entry: the form that writes it.
    registry, machine, progress: as for :func:`dit360_core.quantize`.

    Raises InputError, ModelError; Dit360Error if writing fails, after which nothing is left behind.
    """
    form = written_form(asked.quantization_mode, entry, target)
    if form is None and asked.quantization_skip:
        raise InputError(f"{named('quantization_skip')} has no effect on a file in full; leave it out, or name a mode.")
    if form is not None and form.every_layer and asked.quantization_skip:
        raise InputError(
            f"{named('quantization_skip')} cannot be used with {form.name}, since ComfyUI takes every layer of such a "
            f"file for {form.name}; leave it out, or choose another {named('quantization_mode')}."
        )
    plain = attrs.evolve(asked, quantization_mode="none", quantization_parts="both", quantization_skip="")
    prepared = prepare(plain, registry=registry, machine=machine)
    if prepared.stored:
        raise InputError(f"{asked.model} is stored quantized already; give the original model.")
    # What a file has in fewer bits is turned back here, so that its LoRA can be fused.
    choice = Choice(
        kind="form",
        requested=asked.quantization_mode,
        used="none" if form is None else form.name,
        distribution=entry.distribution,
        version=entry.version,
    )
    plan = attrs.evolve(prepared.plan, quantization=choice, lora_mode="fuse", notes=_notes(prepared), options=asked)
    prepared = attrs.evolve(prepared, plan=plan, kept={})
    part = _part(prepared.architecture, asked)
    with explain_full_memory(f"writing {target}", plan.device):
        return _Writing(prepared, part, form, entry, registry).run(target, progress)


def _notes(prepared: Prepared) -> tuple[str, ...]:
    """Without those on how a model is run."""
    return tuple(note for note in prepared.plan.notes if note in prepared.files.notes)


def _part(family: Architecture, asked: LoadOptions) -> Described:
    """The part that a file holds."""
    if asked.quantization_parts == "both":
        return family.part(DENOISER)
    return next(family.part(name) for name in family.quantized_by(asked.quantization_parts))


class _Writing:
    """One part on its way into a file.

    loras: those that change it.
    remarks: what the file does not hold, in sentences.
    """

    def __init__(
        self, prepared: Prepared, described: Described, form: WrittenForm | None, entry: Entry, registry: Registry
    ) -> None:
        self.prepared, self.described, self.form, self.entry, self.registry = (
            prepared, described, form, entry, registry,
        )  # fmt: skip
        self.family, self.folder = prepared.architecture, prepared.folder / described.name
        self.writer: WeightsWriter = _of_a_plugin(entry, lambda: entry.offer.writer())
        self.uses = self._uses()
        self.loras = tuple(applied for _, applied in self.uses)
        self.remarks = [*self._changes_elsewhere()]
        self.wanted = wanted_of(self.family.networks, described.name, self.folder)
        self.part = self._survey()
        self._changed = self.part.additions.layers(self.part.name) if self.part.additions else ()
        self._kept_forms = self.part.tensors.forms()
        self._moved = False
        """Whether a LoRA has changed a number that is stored in full."""
        self._now: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def _uses(self) -> list[tuple[LoraUse, Applied]]:
        """The LoRAs that change the part. Raises InputError for another that somebody named."""
        found = []
        for use, applied in zip(self.prepared.plan.loras, self.prepared.loras(), strict=True):
            if applied.lora.of(self.described.name):
                lora = applied.lora
                counted = attrs.evolve(use, modules=lora.modules, used=lora.used, tensors=lora.tensors)
                found.append((counted, applied))
            elif not use.own:
                raise InputError(
                    f"{applied.lora.file} changes nothing of the {self.described.short}, which the file is to hold; "
                    "leave it out."
                )
        return found

    def _changes_elsewhere(self) -> Iterator[str]:
        for applied in self.loras:
            others = [self.family.part(name).short for name in applied.lora.layers if name != self.described.name]
            if others:
                yield f"{applied.lora.file.name} also changes {' and '.join(others)}, which this file does not hold"

    def _survey(self) -> Part:
        networks = self.family.networks
        module = networks.empty(self.described.name, self.folder)
        every_layer = self.form is not None and self.form.every_layer
        selection = selections(
            {self.described.name: module},
            self.prepared.plan.options.quantization_skip,
            (lambda part: Policy()) if every_layer else networks.policy,
        )[self.described.name]
        additions = Fusion(self.loras) if self.loras else None
        return part_of(networks, self.described.name, self.folder, module, selection, additions)

    # ------------------------------------------------------------------------------------------------------- what goes

    def run(self, target: Path, progress: Callable[[str, int, int], None] | None) -> State:
        outgoing, left = self._outgoing()
        size = sum(self._bytes_of(one.outgoing) for one in outgoing)
        self._check_room(target, size)
        given_as = self.family.given_as(self.described.name) or ""
        with write_atomic(target, beside=True) as opened:
            hidden = Path(opened.name)
            layers, checksums = self._written(hidden, outgoing, progress)
            self._check_read_back(hidden, target, [one.outgoing.name for one in outgoing], checksums)
            plan = attrs.evolve(
                self.prepared.plan,
                notes=(*self.prepared.plan.notes, *self.remarks),
                loras=tuple(use for use, _ in self.uses),
            )
            done = Converted(part=self.described.name, layers=layers, left=left, given_as=given_as)
            return state_of(plan, self.loras, (done,))

    def _outgoing(self) -> tuple[list[_Tensor], dict[str, str]]:
        """The tensors of the file, and the layers that are left in full, with the reason."""
        module = self.part.module
        tied = self.wanted.tied  # what is one here is written once
        shapes = {name: tuple(tensor.shape) for name, tensor in held(module).items() if name not in tied}
        found: list[_Tensor] = []
        left: dict[str, str] = {}
        selection = self.part.selection
        for original in self._originals(shapes):
            shape = self._shape(original, shapes)
            layers = [name.rpartition(".")[0] for name in original.tensors]
            leaf = original.tensors[0].rpartition(".")[2]
            form: str | None = None
            if self.form is not None and leaf == "weight" and len(shape) == 2:
                why = next((selection.left[layer] for layer in layers if layer in selection.left), None)
                if why is None and all(layer in selection.layers for layer in layers):
                    form = self._form_for(self.form.name, shape)
                elif why is not None:
                    left[original.name.removesuffix(".weight")] = why
            packed = form is not None and form not in PLAIN
            stored_as = form or self._in_full(original)
            read = functools.partial(self._read, original, shape, DTYPES[stored_as] if stored_as in PLAIN else None)
            outgoing = Outgoing(name=original.name, shape=shape, form=stored_as, read=read)
            if form in PLAIN:
                left[original.name.removesuffix(".weight")] = "its row length does not fit the format's block size"
            one_token = packed and all(selection.layers[layer] for layer in layers)
            found.append(_Tensor(outgoing=outgoing, layer=layers[0], packed=packed, one_token=one_token))
        return found, left

    def _originals(self, shapes: Mapping[str, Any]) -> tuple[Original, ...]:
        try:
            found = self.family.originals(self.described.name, list(shapes))
        except KeyError as error:
            raise Dit360Error(
                f"No file can be written: {self.family.title} has no name for the tensor {error} of its "
                f"{self.described.words} in other programs' files; tell its author."
            ) from error
        if found is None:
            raise InputError(
                f"The {self.described.words} of {self.family.title} cannot be written into a file, since only the "
                "layers that it needs are here; take the file that is offered for ComfyUI, or write a folder."
            )
        there = sorted(name for original in found for name in original.tensors)
        if there != sorted(shapes):
            odd = sorted(set(shapes).symmetric_difference(there)) or [one for one in there if there.count(one) > 1]
            raise Dit360Error(
                f"The names that {self.family.title} gives for files leave out {odd[0]}; tell its author."
            )
        return found

    @staticmethod
    def _shape(original: Original, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        first = shapes[original.tensors[0]]
        whole = (sum(shapes[name][0] for name in original.tensors), *first[1:]) if first else first
        return (torch.Size(whole).numel(),) if original.flat else whole

    def _in_full(self, original: Original) -> str:
        """What a tensor is stored as that is not put into fewer bits: as in the model's own file, or as asked."""
        asked = self.prepared.plan.options.precision
        if asked != "auto":
            return _IN_FULL[asked]
        forms = {self._kept_forms.get(self.part.sources.get(name, name), "BF16") for name in original.tensors}
        return next((form for form in _WIDEST if form in forms), "BF16")

    def _read(self, original: Original, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
        """The numbers of a tensor of the file, its LoRAs in them.

        dtype: that it is stored in; None: in fewer bits.
        """
        part, pieces, added = self.part, [], []
        for name in original.tensors:
            tensor = shaped(part.tensors.read(part.sources.get(name, name), window=True), part.module, name)
            layer, _, leaf = name.rpartition(".")
            if part.additions is not None and layer in self._changed:
                old = tensor.float()
                tensor = part.additions.added(old, part.name, layer, leaf)
                added.append(tensor - old)
                if dtype is not None:
                    self._moved |= not torch.equal(tensor.to(dtype), old.to(dtype))
            elif self._changed:
                added.append(torch.zeros(()).expand(tensor.shape))
            pieces.append(tensor)
        whole = _together(pieces, original, shape)
        if not bool(whole.float().isfinite().all()):
            raise ModelError(
                f"The {part.name} of this model holds numbers that are not finite, in {original.tensors[0]}; download "
                "it again."
            )
        delta = _together(added, original, shape) if any(bool(each.any()) for each in added) else None
        self._now = whole, delta
        return whole

    def _check_room(self, target: Path, size: int) -> None:
        free = shutil.disk_usage(target.absolute().parent).free
        if size > free:
            raise InputError(
                f"{target} would take {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there; make room, or "
                "name another place."
            )

    # -------------------------------------------------------------------------------------------------------- writing

    def _written(
        self, hidden: Path, tensors: Sequence[_Tensor], progress: Callable[[str, int, int], None] | None
    ) -> tuple[tuple[Layer, ...], list[int]]:
        """The layers in fewer bits, and a checksum of what was stored of every tensor."""
        about = About(
            family=self.family.name,
            part=self.described.name,
            form=self.form.name if self.form is not None else _most(one.outgoing.form for one in tensors),
            metadata={IN_A_FILE: json.dumps(self._told(), ensure_ascii=False)},
        )
        self.remarks += _of_a_plugin(self.entry, lambda: list(getattr(self.writer, "notes", lambda about: ())(about)))
        total = sum(one.packed for one in tensors)
        layers: list[Layer] = []
        checksums: list[int] = []
        written = iter(self.writer.write(hidden, [one.outgoing for one in tensors], about))
        try:
            for one in tensors:
                stored = _of_a_plugin(self.entry, lambda: next(written, None))
                if stored is None or self._now is None:
                    raise Dit360Error(
                        f"{self.entry.origin} does not write {one.outgoing.name} when it is its turn; tell its author."
                    )
                (numbers, delta), self._now = self._now, None
                if one.packed:
                    layers.append(self._layer(one, stored, numbers, delta))
                else:
                    self._check_finite(one, stored)
                checksums.append(_checksum(stored))
                # Before the next is read: one tensor is in memory at a time.
                del numbers, delta, stored
                if one.packed and progress is not None:
                    progress(self.described.name, len(layers), total)
            _of_a_plugin(self.entry, lambda: next(written, None))  # what it does after the last
        finally:
            close = getattr(written, "close", None)
            if close is not None:
                close()
        if self.part.additions is not None:
            self.part.additions.check(self.part.name)
            if not self._moved and not any(layer.lora_kept is not None for layer in layers):
                files = " and ".join(str(applied.lora.file) for applied in self.loras if applied.strength)
                if files:
                    raise ModelError(f"{files} changes no number of this file; give another {named('precision')}.")
        give_back_freed_memory("cpu")
        return tuple(layers), checksums

    def _check_finite(self, one: _Tensor, stored: torch.Tensor | Packed) -> None:
        """Raises InputError for a tensor in full whose numbers are too large for what it is stored as."""
        if isinstance(stored, Packed):
            raise Dit360Error(f"{self.entry.origin} wrote {one.outgoing.name} in fewer bits; tell its author.")
        if not bool(stored.isfinite().all()):
            raise InputError(
                f"{one.outgoing.name} has numbers that are too large for {one.outgoing.form}; choose another "
                f"{named('precision')} or {named('quantization_mode')}."
            )

    def _layer(
        self, one: _Tensor, stored: torch.Tensor | Packed, numbers: torch.Tensor, delta: torch.Tensor | None
    ) -> Layer:
        outgoing = one.outgoing
        if not isinstance(stored, Packed):
            raise Dit360Error(
                f"{self.entry.origin} wrote {outgoing.name} in full and not as {outgoing.form}; tell its author."
            )
        x = trial_tokens(outgoing.shape[1], torch.float32, "cpu")
        right = multiply(x, numbers.float()).double()
        off = float((PackedLinear(stored, None)(x).double() - right).norm() / right.norm()) if right.any() else 0.0
        if not off < WRONG:
            raise InputError(
                f"The layer {one.layer} would be off by {off:.0%} in {outgoing.form}, where {WRONG:.0%} is allowed; "
                f"choose another {named('quantization_mode')}, or leave it out with {named('quantization_skip')}."
            )
        precision = _IN_FULL.get(self.prepared.plan.precision, "F32")
        return Layer(
            name=outgoing.name.removesuffix(".weight"),
            kernel=outgoing.form,
            one_token=one.one_token,
            bytes_before=numbers.numel() * (4 if precision == "F32" else 2),
            bytes=self._bytes_of(outgoing),
            error=off,
            lora_kept=None if delta is None else _share_kept(stored, numbers, delta),
        )

    def _form_for(self, form: str, shape: tuple[int, ...]) -> str:
        return _of_a_plugin(self.entry, lambda: self.writer.form_for(form, shape))

    def _bytes_of(self, one: Outgoing) -> int:
        return _of_a_plugin(self.entry, lambda: int(self.writer.bytes_of(one.form, one.shape)))

    def _told(self) -> dict[str, Any]:
        """What the file says of itself. A file is given away, so that no folder of this machine is named in it."""
        plan = self.prepared.plan
        loras = [
            {**use.as_dict(), "from": without_folders(use.name), "mode": "fuse", HASH: hash_of(applied.lora.file)}
            for use, applied in self.uses
        ]
        # Those that are there already are of the file that the part came from, and of no other part's.
        before: list[Mapping[str, Any]] = []
        if isinstance(self.part.tensors, FileTensors):
            source = self.part.tensors.manifest
            before = settings_in(open_file(source.file, source.reader, self.registry))["loras"]
        origin = plan.options.model if plan.model.name == "given" else plan.model.name
        return settings_of(plan.model, without_folders(origin), [*before, *loras])

    def _check_read_back(self, hidden: Path, target: Path, names: Sequence[str], checksums: Sequence[int]) -> None:
        """Raises Dit360Error unless the file holds the part, bit by bit as it was stored, for whoever reads it."""
        try:
            file = open_file(hidden, self.entry.address, self.registry)
            found = part_in_file(self.family, self.described, self.wanted, file.tensors)
            odd = [*found.missing, *found.misshapen, *found.strange]
            odd += [
                name for name, right in zip(names, checksums, strict=True) if _checksum(file.read(name)) != right
            ]  # fmt: skip
        except ModelError as error:
            raise Dit360Error(
                f"{target} cannot be read back ({one_line(error)}); tell the author of {self.entry.origin}."
            ) from error
        if odd:
            raise Dit360Error(
                f"{target} is not read back as it was written ({odd[0]}); tell the author of {self.entry.origin}."
            )
        if self.described.name == DENOISER:
            self.remarks += self._lost(file, target)

    def _lost(self, file: WeightsFile, target: Path) -> list[str]:
        """What nobody will know of the model who has its file alone."""
        config = self.family.read_config(DENOISER, self.folder)
        told = config_told(file, self.family, self.registry, target.stem)
        if told is None:
            return [
                f"no model that is known here is like this one; give the file as {named('transformer')} with its model"
            ]
        lost = [key for key, value in config.items() if value is not None and told.get(key) not in (None, value)]
        if not lost:
            return []
        return [
            f"the file alone does not tell {' and '.join(lost[:3])} of this model; give it as {named('transformer')} "
            "with the model that it was made of"
        ]


@attrs.frozen(kw_only=True, eq=False)
class _Tensor:
    """A tensor on its way into the file.

    layer: of the part, which it belongs to, or the first of several.
    packed: whether it is stored in fewer bits.
    one_token: whether the layer sees one token a picture.
    """

    outgoing: Outgoing
    layer: str
    packed: bool
    one_token: bool


def _most(forms: Iterable[str]) -> str:
    return Counter(forms).most_common(1)[0][0]


def _checksum(stored: torch.Tensor | Packed) -> int:
    """Of the numbers as they are stored; of scales, which writers and readers hold in several ways, none is taken."""
    tensor = stored.tensors[0] if isinstance(stored, Packed) else stored
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _of_a_plugin(entry: Entry, call: Callable[[], Made]) -> Made:
    """What a writer gives. Raises Dit360Error for what goes wrong in it."""
    try:
        return call()
    except (KeyboardInterrupt, MemoryError, OSError, Dit360Error):
        raise
    except BaseException as error:  # a plugin's, whatever it is
        raise Dit360Error(f"{entry.origin} cannot write this file ({one_line(error)}); tell its author.") from error


def _together(pieces: Sequence[torch.Tensor], original: Original, shape: tuple[int, ...]) -> torch.Tensor:
    whole = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
    if original.halves_swapped:
        whole = torch.cat(whole.chunk(2)[::-1])
    return whole.reshape(shape)


def _share_kept(stored: Packed, numbers: torch.Tensor, delta: torch.Tensor) -> float:
    """The share of what was added to a matrix that is left in its rounded numbers: 1 where rounding does not see it."""
    product = square = 0.0
    for begin in range(0, len(numbers), _ROWS):
        rows = slice(begin, begin + _ROWS)
        off = stored.rows(begin, min(begin + _ROWS, len(numbers))).dense(torch.float32) - numbers[rows].float()
        product += float((off * delta[rows]).sum(dtype=torch.float64))
        square += float(delta[rows].square().sum(dtype=torch.float64))
    return 1 + product / square
