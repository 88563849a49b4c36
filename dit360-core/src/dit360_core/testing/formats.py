"""The contract of a form of files with weights, as tests that a plugin's author inherits."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import torch
from torch.nn.functional import linear as multiply

from dit360_core.errors import Reason
from dit360_core.models.weights.forms.description import PLAIN, Described, WeightsFile
from dit360_core.models.weights.forms.outgoing import About, Outgoing
from dit360_core.models.weights.forms.packed import AT_ONCE, Packed, PackedEmbedding, PackedLinear
from dit360_core.models.weights.headers import PICKLED
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import WeightsFormat
from dit360_core.system.machine import Machine
from dit360_core.testing.damages import STRANGERS, changed, check_told, cut_off
from dit360_core.testing.offering import MACHINES, OfferConformance
from dit360_core.testing.saying import same, shaped, within
from dit360_core.testing.storage import PeakStorage

_DTYPES = dict(zip(PLAIN, (torch.float64, torch.float32, torch.float16, torch.bfloat16), strict=True))
_SLOW = ("torch", "diffusers", "transformers")
_SLACK = 1.1
"""One scale of a whole matrix is held once for each of its rows."""
_ROUNDED = 0.005
"""The share that bf16 rounds away at most."""
_HEADER = """
import pathlib, sys
import {module} as plugin
offer = next(offer for offer in plugin.dit360_formats() if offer.name == {name!r})
found = offer.load()(pathlib.Path({path!r})).tensors
print(len(found), *(name for name in {slow!r} if name in sys.modules))
"""


class FormatConformance(OfferConformance):
    """Inherit, name the plugin's module and its offer, write a file of the form, and let pytest run it::

        class TestMine(FormatConformance):
            module = "my_plugin"
            error = 0.01
            def offer(self):
                return next(iter(my_plugin.dit360_formats()))
            def write(self, path, tensors):
                my_plugin.write(path, tensors)

    A form that cannot be read on this machine is left out with its reason.

    error: the share by which a tensor in fewer bits may differ from the one that was written.
    """

    kind = WeightsFormat
    error: float = 0.0

    def machine(self) -> Machine:
        """Where layers compute."""
        return Machine.detect()

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes a file of the form.

        tensors: name → numbers in float32.
        """
        raise NotImplementedError

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What is written; override for other names and shapes, if the form has no place for these."""
        generator = torch.Generator().manual_seed(1)

        def matrix(rows: int, columns: int) -> torch.Tensor:
            # Rows of different sizes, so that none can be taken for another.
            sizes = torch.linspace(0.5, 2.0, rows).mul(columns**-0.5)
            return torch.randn(rows, columns, generator=generator) * sizes[:, None]

        query = matrix(96, 256)
        query[5] = 0  # for which a scale may be anything
        return {
            "blocks.0.attn.to_q.weight": query,
            "blocks.0.attn.to_q.bias": torch.randn(96, generator=generator),
            "blocks.0.ff.net.0.proj.weight": matrix(40, 512),
            "conv_in.weight": torch.randn(8, 4, 3, 3, generator=generator),
            "norm.weight": torch.ones(256),
        }

    # ------------------------------------------------------------------------------------------------------ tests

    def test_the_offer_says_what_its_files_are_called(self) -> None:
        suffixes = self.offer().suffixes
        assert suffixes, "suffixes is empty, so no file is of this form"
        for suffix in suffixes:
            met = suffix[1:] and suffix == suffix.lower() == Path(f"weights{suffix}").suffix
            assert met, f"the suffix {suffix!r} ends no file's name: it is one dot and what follows, in small letters"
            assert suffix not in PICKLED, f"the suffix {suffix!r} is that of pickles, which are never opened"

    def test_unsupported_answers_for_any_machine_and_allocates_nothing(self) -> None:
        """Without a need: nothing but the file itself is asked for."""
        offer = self.offer()
        for machine in MACHINES:
            with PeakStorage() as storage:
                reasons = list(offer.unsupported(machine, None))
            assert storage.peak == 0, f"unsupported makes tensors of {storage.peak} bytes, and none may be made"
            wrong = [reason for reason in reasons if not (isinstance(reason, Reason) and reason.sentence)]
            assert not wrong, f"unsupported answers {wrong[0]!r:.60} where a Reason with a sentence belongs"

    def test_a_header_is_read_without_torch(self) -> None:
        with self._written() as (path, given):
            code = _HEADER.format(module=self.module, name=self.offer().name, path=str(path), slow=_SLOW)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            count, *imported = done.stdout.split()
            assert not imported, f"opening a file imports {', '.join(imported)}"
            assert int(count) == len(given), f"{count} tensors are told of, and {len(given)} were written"

    def test_a_file_is_described_as_it_was_written(self) -> None:
        with self._written() as (path, given):
            file = self._open(path)
            assert file.file == path, f"file is {file.file} where {path} belongs"
            for what in (file.unused, file.metadata):
                assert isinstance(what, Mapping), f"{what!r:.60} where a mapping of texts belongs"
                assert all(isinstance(text, str) for pair in what.items() for text in pair), f"{what!r:.60} is no text"
            lost, more = sorted(set(given) - set(file.tensors)), sorted(set(file.tensors) - set(given))
            assert not lost, f"nothing is told of {lost[0]}, which was written"
            assert not more, f"{more[0]} is told of, and was not written"
            for name, tensor in given.items():
                about, shape = file.tensors[name], tuple(tensor.shape)
                assert isinstance(about, Described), f"{name} is {about!r:.60} where a Described belongs"
                assert about.known, f"it says that the numbers of {name} mean nothing"
                assert about.shape == shape, f"{name} is {about.shape} where {shape} belongs"

    def test_all_that_is_described_is_no_larger_than_the_file(self) -> None:
        with self._written() as (path, _):
            file, size = self._open(path), path.stat().st_size
            told = {name: about.bytes for name, about in file.tensors.items()}
            small = [name for name, count in told.items() if count < 1]
            assert not small, f"{small[0]} takes {told[small[0]]} bytes, and 1 is the least"
            assert sum(told.values()) <= size, f"its tensors take {sum(told.values())} bytes of a file of {size}"

    def test_what_is_read_is_what_was_written(self) -> None:
        with self._opened() as (file, given):
            for name, right in given.items():
                about, found = file.tensors[name], file.read(name)
                if about.form in PLAIN:
                    same(found, right.to(_DTYPES[about.form]), name)  # type: ignore[arg-type]
                    continue
                if isinstance(found, Packed):
                    _check_packed(name, about, found)
                # Others may be turned back at once: no layer computes from them.
                assert len(about.shape) != 2 or isinstance(found, Packed), (
                    f"{name} is described as {about.form}, and read as a {type(found).__name__} where a Packed belongs"
                )
                dense = _dense(found)
                assert dense.is_floating_point(), f"{name} is turned back to {dense.dtype}, which are no fractions"
                shaped(dense.double(), right.double(), name)
                off = float((dense.double() - right.double()).norm() / right.double().norm())
                within(off, self.error, f"{name}, as a share,", about.form)

    def test_a_matrix_takes_the_bytes_that_are_described(self) -> None:
        """As it is kept, which plans are made for."""
        with self._opened() as (file, _):
            for name, packed in _matrices(file):
                held, told, full = packed.kept().nbytes, file.tensors[name].bytes, 2 * packed.shape[0] * packed.shape[1]
                assert held <= _SLACK * told, f"{name} holds {held} bytes, and {told} are described"
                assert held < full, f"{name} holds {held} bytes, and {full} are those of bf16"

    def test_rows_are_turned_back_as_those_of_the_whole(self) -> None:
        with self._opened() as (file, _):
            for name, packed in _matrices(file):
                whole, count = packed.dense(torch.float32), packed.shape[0]
                for begin, end in ((0, 1), (0, count), (count // 2, count), (count - 1, count), (3, 8)):
                    some = packed.rows(begin, end).dense(torch.float32)
                    _alike(some, whole[begin:end], f"rows {begin} to {end} of {name}")
                twice = packed.rows(2, 9).rows(1, 3).dense(torch.float32)
                _alike(twice, whole[3:5], f"rows of rows of {name}")
                # Where a table of tokens is looked up, in any order.
                ids = torch.tensor([[count - 1, 0, 3], [3, 3, 1]])
                found = PackedEmbedding(packed.kept(), torch.float32)(ids)
                _alike(found, whole[ids], f"single rows of {name}")

    def test_a_layer_computes_as_the_weight_that_is_turned_back(self) -> None:
        with self._opened() as (file, _):
            device = self.machine().device
            for name, packed in _matrices(file):
                rows, columns = packed.shape
                generator = torch.Generator().manual_seed(2)
                x, bias = torch.randn(2, 7, columns, generator=generator), torch.randn(rows, generator=generator)
                right = multiply(x, packed.dense(torch.float32), bias)
                layer = PackedLinear(packed.kept(), bias).to(device)
                for at_once in (rows * columns, 5 * columns):
                    with mock.patch.dict(AT_ONCE, {device: at_once}):
                        found = layer(x.to(device)).cpu()
                    shaped(found, right, f"a layer of {name}")
                    off = float((found - right).norm() / right.norm())
                    within(off, 1e-5, f"a layer of {name}, as a share,", f"{at_once // columns} rows at a time")

    def test_reading_again_gives_the_same_and_leaves_the_file_alone(self) -> None:
        with self._written() as (path, given):
            file, before = self._open(path), path.read_bytes()
            first = {name: _dense(file.read(name)).clone() for name in given}
            for name, right in first.items():
                found = file.read(name)
                for again in (_dense(found), _dense(found)):
                    same(again, right, f"{name}, read and turned back again,")
            assert path.read_bytes() == before, "reading changes the file"

    def test_a_file_that_is_cut_off_is_told_in_one_sentence(self) -> None:
        with self._opened() as (file, given):
            right = {name: _dense(file.read(name)).clone() for name in given}
            for about, found, path in self._damaged(cut_off):
                if isinstance(found, Exception):
                    check_told(found, about, path)
                    continue
                # What was cut off may have been of no use.
                assert set(found) == set(right), f"a file {about} is read, and {len(right) - len(found)} tensors lack"
                for name, tensor in right.items():
                    same(found[name], tensor, f"a file {about} is read, and its {name}")

    def test_changed_bytes_are_told_in_one_sentence_or_do_no_harm(self) -> None:
        """Few forms have a checksum: numbers may come out changed, names and shapes too, but no other error."""
        for about, found, path in self._damaged(changed):
            if isinstance(found, Exception):
                check_told(found, about, path)

    def test_what_is_no_such_file_is_told_in_one_sentence(self) -> None:
        for about, found, path in self._damaged(lambda _: STRANGERS.items()):
            assert isinstance(found, Exception), f"a file {about} is taken for one of this form"
            check_told(found, about, path)

    # -------------------------------------------------------------------------------------------------------- writing

    def test_forms_that_are_written_have_names_and_a_writer(self) -> None:
        offer = self.offer()
        names = [form.name for form in offer.writes]
        assert len({name.lower() for name in names}) == len(names), f"writes has a name twice: {names}"
        assert "none" not in names, "writes has none, which means in full everywhere"
        assert not names or offer.writer is not None, f"writes has {names[0]}, and there is no writer"

    def test_what_is_written_is_read_as_it_was_stored(self) -> None:
        for form, outgoing, stored, path in self._written_forms():
            file = self._open(path)
            odd = sorted({one.name for one in outgoing}.symmetric_difference(file.tensors))
            assert not odd, f"in {form}, {odd[0]} is lost, or is more than was written"
            for one, right in zip(outgoing, stored, strict=True):
                found = file.read(one.name)
                shaped(_dense(found), _dense(right), f"{one.name} in {form}")
                _alike(_dense(found).float(), _dense(right).float(), f"{one.name} in {form}")
                told = file.tensors[one.name]
                assert told.shape == one.shape, f"{one.name} in {form} is {told.shape} where {one.shape} belongs"

    def test_what_is_written_is_near_to_the_numbers_and_as_small_as_is_said(self) -> None:
        offer = self.offer()
        given = self.tensors()
        for form, outgoing, _, path in self._written_forms():
            file, writer = self._open(path), offer.writer()
            for one in outgoing:
                about, right = file.tensors[one.name], given[one.name]
                size = writer.bytes_of(one.form, one.shape)
                # A mark may lie beside a matrix.
                assert abs(size - about.bytes) <= 96, f"{one.name} takes {about.bytes} bytes, and {size} were said"
                off = float((_dense(file.read(one.name)).double() - right.double()).norm() / right.double().norm())
                most = _ROUNDED if one.form in PLAIN else 0.5
                within(off, most, f"{one.name}, as a share,", one.form)
                bits = next((each.bits for each in offer.writes if each.name == one.form), None)
                if bits is not None and about.packed:
                    within(8 * size / right.numel(), 1.15 * bits, f"the bits of {one.name}", form)

    # ------------------------------------------------------------------------------------------------ inner parts

    def _written_forms(self) -> Iterator[tuple[str, list[Outgoing], list[torch.Tensor | Packed], Path]]:
        """Files that the writer makes: in each of its forms, and in full. Each tensor is asked for once, in order."""
        offer, given = self.offer(), self.tensors()
        if offer.writer is None:
            return
        with self._written():  # where it can be read at all
            pass
        for form in [*(each.name for each in offer.writes), *_DTYPES]:
            writer, read, outgoing = offer.writer(), list[str](), list[Outgoing]()
            for name, tensor in given.items():
                matrix = tensor.ndim == 2 and form not in PLAIN
                kind = writer.form_for(form, tuple(tensor.shape)) if matrix else form if form in PLAIN else "F32"

                asked = functools.partial(_counted, read, name, tensor)
                outgoing.append(Outgoing(name=name, shape=tuple(tensor.shape), form=kind, read=asked))
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                # Of any name: it is given its own when all is well.
                path = Path(folder) / "unfinished.part"
                about = About(family="tried", part="transformer", form=form, metadata={"tried": "told"})
                stored = [
                    attrs.evolve(each, tensors=tuple(t.clone() for t in each.tensors))
                    if isinstance(each, Packed)
                    else each.clone()
                    for each in writer.write(path, outgoing, about)
                ]
                assert len(stored) == len(outgoing), f"write gives {len(stored)} of {len(outgoing)} tensors in {form}"
                assert read == list(given), f"in {form}, tensors are not asked for once and in order: {read}"
                assert self._open(path).metadata.get("tried") == "told", f"in {form}, what the file tells is lost"
                yield form, outgoing, stored, path

    @contextlib.contextmanager
    def _written(self) -> Iterator[tuple[Path, Mapping[str, torch.Tensor]]]:
        """A file, and what was written into it."""
        entry = Entry(kind="format", offer=self.offer(), distribution="tried", version="0")
        if reasons := judge(entry, Machine(), None):
            raise unittest.SkipTest("; ".join(map(str, reasons)))
        # Windows removes no file that is still mapped.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            given = dict(self.tensors())
            path = Path(folder) / f"weights{self.offer().suffixes[0]}"
            self.write(path, {name: tensor.clone() for name, tensor in given.items()})
            assert path.is_file(), f"write made no file {path}"
            yield path, given

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[WeightsFile, Mapping[str, torch.Tensor]]]:
        with self._written() as (path, given):
            yield self._open(path), given

    def _open(self, path: Path) -> WeightsFile:
        return self.offer().load()(path)  # type: ignore[no-any-return]

    def _damaged(self, damages: Any) -> Iterable[tuple[str, dict[str, torch.Tensor] | Exception, Path]]:
        """What is wrong with a file, and all that it holds, or the error that reading it raises."""
        with self._written() as (path, _):
            whole = path.read_bytes()
            for number, (about, bytes_) in enumerate(damages(whole)):
                # Under a new name each time: an older one may still be mapped.
                damaged = path.with_stem(f"damaged-{number}")
                damaged.write_bytes(bytes_)
                yield about, self._held(damaged), damaged
                with contextlib.suppress(OSError):
                    damaged.unlink()

    def _held(self, path: Path) -> dict[str, torch.Tensor] | Exception:
        try:
            file = self._open(path)
            return {name: _dense(file.read(name)).clone() for name, about in file.tensors.items() if about.known}
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is looked at
            return error


def _counted(read: list[str], name: str, tensor: torch.Tensor) -> torch.Tensor:
    read.append(name)
    return tensor.clone()


def _dense(found: torch.Tensor | Packed) -> torch.Tensor:
    return found.decode(found.tensors, found.shape) if isinstance(found, Packed) else found


def _matrices(file: WeightsFile) -> Iterator[tuple[str, Packed]]:
    """Those that are kept in fewer bits."""
    for name, about in file.tensors.items():
        if about.packed and len(about.shape) == 2 and isinstance(found := file.read(name), Packed):
            yield name, found


def _check_packed(name: str, about: Described, packed: Packed) -> None:
    told = f"{packed.form} {packed.shape} where {about.form} {about.shape} belongs"
    assert (packed.form, packed.shape) == (about.form, about.shape), f"{name}: {told}"
    assert packed.tensors, f"{name} holds no tensors"
    for tensor in packed.tensors:
        right, shape = packed.shape[:1], tuple(tensor.shape)
        assert shape[:1] == right, f"{name} holds a tensor {shape} where the first axis is its {packed.shape[0]} rows"


def _alike(found: torch.Tensor, right: torch.Tensor, what: str) -> None:
    """But for rounding: products of fewer rows may be summed in another order."""
    shaped(found, right, what)
    within(float((found - right).abs().max()), 1e-5 * max(float(right.abs().max()), 1e-30), what)
