"""The core's safetensors under the tests that forms of weights inherit; and those tests catch forms that are wrong."""

import json
import sys
import unittest

import attrs
import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.models.weights.forms.description import PLAIN, Described
from dit360_core.models.weights.forms.fp8_int8 import hadamard
from dit360_core.models.weights.forms.packed import Packed
from dit360_core.models.weights.forms.safetensors_file import SafetensorsFile
from dit360_core.models.weights.forms.safetensors_writer import SafetensorsWriter
from dit360_core.plugins import Reason, WeightsFormat, WrittenForm
from dit360_core.plugins.builtin import formats
from dit360_core.testing import FormatConformance
from safetensors.torch import save_file

FP8 = torch.float8_e4m3fn


def scaled(tensors, dtype, most, *, turned=0, scales="each row"):
    """Matrices with a scale for each row, as ComfyUI writes them; all else as it is."""
    found = dict(tensors)
    for name in (name for name, tensor in tensors.items() if tensor.ndim == 2):
        weight, layer = tensors[name], name.removesuffix(".weight")
        if turned:
            weight = (weight.view(-1, turned) @ hadamard(turned).T).view(weight.shape)
            mark = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": turned}
            found[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8)
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / most
        scale = scale if scales == "each row" else scale.max()
        numbers = weight / scale
        found[name] = (numbers if dtype.is_floating_point else numbers.round()).to(dtype)
        found[f"{layer}.weight_scale"] = scale
    return found


# ----------------------------------------------------------------------------------------------------- the core's own


class Builtin(FormatConformance):
    module = "dit360_core.plugins.builtin.formats"

    def offer(self):
        return next(iter(formats.dit360_formats()))


class TestBfloat16(Builtin):
    def write(self, path, tensors):
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, path, metadata={"by": "a test"})


class TestFp8(Builtin):
    error = 0.04

    def write(self, path, tensors):
        save_file({name: tensor.to(FP8) for name, tensor in tensors.items()}, path)


class TestScaledFp8(Builtin):
    """With one scale for all rows."""

    error = 0.04

    def write(self, path, tensors):
        save_file(scaled(tensors, FP8, 448, scales="all"), path)


class TestTurnedInt8(Builtin):
    error = 0.02

    def write(self, path, tensors):
        save_file(scaled(tensors, torch.int8, 127, turned=256), path)


# ------------------------------------------------------------------------------------------------ those that are wrong


class Changed(SafetensorsFile):
    """Its tensors are described by ``tell`` and read by ``change``, which get what is right."""

    def __init__(self, file):
        super().__init__(file)
        self.tensors = {name: self.tell(about) for name, about in self.tensors.items()}

    def tell(self, about):
        return about

    def read(self, name):
        found = super().read(name)
        return self.change(found) if isinstance(found, Packed) else found

    def change(self, packed):
        return packed


class OfAnotherForm(Changed):
    def change(self, packed):
        return attrs.evolve(packed, form="int4")


class OfAnotherShape(Changed):
    def tell(self, about):
        return attrs.evolve(about, shape=about.shape[::-1])


class Unknown(Changed):
    def tell(self, about):
        return attrs.evolve(about, known=False)


class Untold(Changed):
    def tell(self, about):
        return {"form": about.form, "shape": about.shape}


class OfMoreBytes(Changed):
    def tell(self, about):
        return attrs.evolve(about, bytes=4 * about.bytes)


class OfFewerBytes(Changed):
    def tell(self, about):
        return attrs.evolve(about, bytes=max(1, about.bytes // 2))


class WithoutOne(Changed):
    def __init__(self, file):
        super().__init__(file)
        self.tensors = {name: about for name, about in self.tensors.items() if name != "norm.weight"}


class WithOneMore(Changed):
    def __init__(self, file):
        super().__init__(file)
        self.tensors = {**self.tensors, "scale": Described(form="F32", shape=(1,), bytes=4)}


class WithNumbersBeside(Changed):
    def __init__(self, file):
        super().__init__(file)
        self.metadata = {"version": 3}


class Elsewhere(Changed):
    def __init__(self, file):
        super().__init__(file)
        self.file = file.name


class Rounded(Changed):
    """Of plain ones."""

    def read(self, name):
        found = super().read(name)
        return found.half().float() if isinstance(found, torch.Tensor) else found


class Halved(Rounded):
    def read(self, name):
        found = SafetensorsFile.read(self, name)
        return found.half() if isinstance(found, torch.Tensor) else found


class TurnedBack(Changed):
    """Of fewer bits in the file, as it says, and of 32 in memory."""

    def change(self, packed):
        return packed.dense(torch.float32)


class Unscaled(Changed):
    def change(self, packed):
        return attrs.evolve(packed, decode=lambda tensors, shape: tensors[0].float())


class OfAnotherLength(Changed):
    def change(self, packed):
        return attrs.evolve(packed, decode=lambda tensors, shape: packed.decode(tensors, shape)[:, :-1])


class InWholeNumbers(Changed):
    def change(self, packed):
        return attrs.evolve(packed, decode=lambda tensors, shape: packed.decode(tensors, shape).int())


class ScaledAtOnce(Changed):
    """By a scale of all rows, which is not among those that a row has."""

    def change(self, packed):
        return attrs.evolve(packed, tensors=(packed.tensors[0], torch.ones(())))


class ByAllRows(Changed):
    """Turned back by something that only the whole knows."""

    def change(self, packed):
        count = len(packed.tensors[0])

        def decode(tensors, shape):
            scale = tensors[1] if len(tensors[0]) == count else tensors[1].mean()
            return packed.decode((tensors[0], scale.expand(len(tensors[0]))), shape)

        return attrs.evolve(packed, decode=decode)


class ByTheFirstRows(ByAllRows):
    """Turned back by the scales of the whole, whatever rows they are."""

    def change(self, packed):
        whole = packed.tensors[1]
        return attrs.evolve(
            packed, decode=lambda tensors, shape: packed.decode((tensors[0], whole[: len(tensors[0])]), shape)
        )


class Fat(Changed):
    def change(self, packed):
        return attrs.evolve(packed, tensors=(packed.tensors[0].float(), packed.tensors[1]))


class InBfloat16(Changed):
    """Two bytes a number, and says so."""

    def tell(self, about):
        return attrs.evolve(about, bytes=2 * about.bytes) if about.packed else about

    def change(self, packed):
        return attrs.evolve(packed, tensors=(packed.dense(torch.bfloat16),), decode=lambda tensors, shape: tensors[0])


class Coarser(Changed):
    """More so, the fewer rows there are."""

    def change(self, packed):
        def decode(tensors, shape):
            return packed.decode(tensors, shape) * (1 + 1e-3 / len(tensors[0]))

        return attrs.evolve(packed, decode=decode)


class Wearing(Changed):
    """Its scales become others when they are used."""

    def change(self, packed):
        def decode(tensors, shape):
            return packed.decode((tensors[0], tensors[1].mul_(1.0001)), shape)

        return attrs.evolve(packed.kept(), decode=decode)


class Written(Changed):
    def read(self, name):
        self.file.write_bytes(self.file.read_bytes()[:-1] + b"\xff")
        return super().read(name)


class Frank:
    """As the core's, but for what happens to errors."""

    def __init__(self, file):
        try:
            self._inner = SafetensorsFile(file)
        except ModelError as error:
            self.tell(error, file)
        self.file, self.tensors = file, self._inner.tensors
        self.unused, self.metadata = self._inner.unused, self._inner.metadata

    def tell(self, error, file):
        raise error

    def read(self, name):
        return self._inner.read(name)


class Raising(Frank):
    def tell(self, error, file):
        raise KeyError(f"{file}.")


class OnTwoLines(Frank):
    def tell(self, error, file):
        raise ModelError(f"{file} is damaged.\nDownload it again.")


class Nameless(Frank):
    def tell(self, error, file):
        raise ModelError("The file is damaged; download it again.")


class Unfinished(Frank):
    def tell(self, error, file):
        raise ModelError(f"{file} is damaged")


class Trusting:
    """Reads what there is of a file, and takes the rest for zeros."""

    def __init__(self, file):
        whole = file.read_bytes()
        count = int.from_bytes(whole[:2], "little")
        name, end = "norm.weight", 2 + 4 * count
        self.file, self.unused, self.metadata = file, {}, {}
        self.tensors = {name: Described(form="F32", shape=(count,), bytes=4 * count)}
        self._numbers = torch.frombuffer(bytearray(whole[2:end].ljust(4 * count, b"\0") or bytes(4)), dtype=torch.float)

    def read(self, name):
        return self._numbers


class Misplaced(Trusting):
    """Its errors are PyTorch's, once bytes are not what they should be."""

    def read(self, name):
        return self._numbers[:256].view(256)


DESCRIBED = "test_a_file_is_described_as_it_was_written"
SMALL = "test_all_that_is_described_is_no_larger_than_the_file"
READ = "test_what_is_read_is_what_was_written"
BYTES = "test_a_matrix_takes_the_bytes_that_are_described"
ROWS = "test_rows_are_turned_back_as_those_of_the_whole"
LAYER = "test_a_layer_computes_as_the_weight_that_is_turned_back"
AGAIN = "test_reading_again_gives_the_same_and_leaves_the_file_alone"
CUT = "test_a_file_that_is_cut_off_is_told_in_one_sentence"
CHANGED = "test_changed_bytes_are_told_in_one_sentence_or_do_no_harm"
STRANGE = "test_what_is_no_such_file_is_told_in_one_sentence"


class Int8(Builtin):
    error = 0.02

    def write(self, path, tensors):
        save_file(scaled(tensors, torch.int8, 127), path)


def tried(opens, **offered):
    class Tried(Int8):
        def offer(self):
            return WeightsFormat(
                **{"name": "tried", "api": 1, "suffixes": (".tried",), "load": lambda: opens, **offered}
            )

    return Tried()


@pytest.mark.parametrize(
    ("wrong", "test", "said"),
    [
        (OfAnotherForm, READ, r"int4 \(96, 256\) where int8 \(96, 256\) belongs"),
        (OfAnotherShape, DESCRIBED, r"is \(256, 96\) where \(96, 256\) belongs"),
        (Unknown, DESCRIBED, "it says that the numbers of .* mean nothing"),
        (Untold, DESCRIBED, "where a Described belongs"),
        (WithoutOne, DESCRIBED, "nothing is told of norm.weight, which was written"),
        (WithOneMore, DESCRIBED, "scale is told of, and was not written"),
        (WithNumbersBeside, DESCRIBED, "is no text"),
        (Elsewhere, DESCRIBED, "file is weights.tried where"),
        (OfMoreBytes, SMALL, r"its tensors take \d+ bytes of a file of \d+"),
        (OfFewerBytes, BYTES, r"holds \d+ bytes, and \d+ are described"),
        (Rounded, READ, r"to_q.bias: \d+ of 96 numbers differ"),
        (Halved, READ, "torch.float16 where .* torch.float32 belongs"),
        (TurnedBack, READ, "is described as int8, and read as a Tensor where a Packed belongs"),
        (Unscaled, READ, "to_q.weight, as a share, is off by"),
        (OfAnotherLength, READ, r"\(96, 255\) torch.float64 where \(96, 256\)"),
        (InWholeNumbers, READ, "turned back to torch.int32"),
        (ScaledAtOnce, READ, "where the first axis is its 96 rows"),
        (ByAllRows, ROWS, "rows 48 to 96 of .* is off by"),
        (ByTheFirstRows, ROWS, "rows 48 to 96 of .* is off by"),
        (Fat, BYTES, r"holds \d+ bytes, and \d+ are described"),
        (InBfloat16, BYTES, r"holds \d+ bytes, and \d+ are those of bf16"),
        (Coarser, LAYER, "a layer of .* is off by .*5 rows at a time"),
        (Wearing, AGAIN, "read and turned back again,: .* numbers differ"),
        (Written, AGAIN, "reading changes the file"),
        (Raising, CUT, "is a KeyError, no ModelError"),
        (Raising, CHANGED, "is a KeyError, no ModelError"),
        (Raising, STRANGE, "is a KeyError, no ModelError"),
        (OnTwoLines, CUT, "is told in more than one line"),
        (Nameless, CUT, "is told without its name"),
        (Unfinished, CUT, "is told without a full stop"),
    ],
)
def test_a_form_that_is_wrong_fails(wrong, test, said):
    with pytest.raises(AssertionError, match=said):
        getattr(tried(wrong), test)()


@pytest.mark.parametrize(
    ("wrong", "test", "said"),
    [
        (Trusting, CUT, "is read, and its norm.weight"),
        (Trusting, STRANGE, "is taken for one of this form"),
        (Misplaced, CHANGED, "is a RuntimeError, no ModelError"),
    ],
)
def test_a_form_that_believes_whatever_it_reads_fails(wrong, test, said):
    class Tried(Builtin):
        def offer(self):
            return WeightsFormat(name="tried", api=1, suffixes=(".tried",), load=lambda: wrong)

        def tensors(self):
            return {"norm.weight": torch.arange(1.0, 257)}

        def write(self, path, tensors):
            path.write_bytes(b"\x00\x01" + tensors["norm.weight"].numpy().tobytes())

    getattr(Tried(), READ)()
    with pytest.raises(AssertionError, match=said):
        getattr(Tried(), test)()


class Writing(SafetensorsWriter):
    """Right, but for what those below do to it."""


class Losing(Writing):
    def write(self, file, tensors, about):
        yield from super().write(file, tensors[:-1], about)
        yield tensors[-1].read()


class Silent(Writing):
    def write(self, file, tensors, about):
        yield from super().write(file, tensors, attrs.evolve(about, metadata={}))


class Twice(Writing):
    def write(self, file, tensors, about):
        tensors[0].read()
        yield from super().write(file, tensors, about)


class FromTheEnd(Writing):
    def write(self, file, tensors, about):
        yield from reversed([*super().write(file, tensors[::-1], about)])


class Stingy(Writing):
    def bytes_of(self, form, shape):
        return super().bytes_of(form, shape) // 2


class Loud(Writing):
    """Numbers twice as large as they were."""

    def write(self, file, tensors, about):
        louder = [attrs.evolve(one, read=lambda one=one: 2 * one.read()) for one in tensors]
        yield from super().write(file, louder, about)


class Telling(Writing):
    """Others than it has stored."""

    def write(self, file, tensors, about):
        for stored in super().write(file, tensors, about):
            yield (
                attrs.evolve(stored, tensors=(stored.tensors[0], stored.tensors[1] * 1.01))
                if isinstance(stored, Packed)
                else stored
            )


WRITTEN = "test_what_is_written_is_read_as_it_was_stored"
NEAR = "test_what_is_written_is_near_to_the_numbers_and_as_small_as_is_said"


@pytest.mark.parametrize(
    ("wrong", "test", "said"),
    [
        (Losing, WRITTEN, "norm.weight is lost, or is more than was written"),
        (Silent, WRITTEN, "what the file tells is lost"),
        (Twice, WRITTEN, "tensors are not asked for once and in order"),
        (FromTheEnd, WRITTEN, "tensors are not asked for once and in order"),
        (Stingy, NEAR, r"takes \d+ bytes, and \d+ were said"),
        (Loud, NEAR, "as a share, is off by"),
        (Telling, WRITTEN, "to_q.weight in fp8 is off by"),
    ],
)
def test_a_writer_that_is_wrong_fails(wrong, test, said):
    (own,) = formats.dit360_formats()
    with pytest.raises(AssertionError, match=said):
        getattr(tried(SafetensorsFile, writes=own.writes, writer=wrong), test)()


@pytest.mark.parametrize(
    ("writes", "said"),
    [
        ([("a", 4.0), ("A", 5.0)], "has a name twice"),
        ([("none", 4.0)], "which means in full everywhere"),
        ([("a", 4.0)], "there is no writer"),
    ],
)
def test_forms_that_cannot_be_written_fail(writes, said):
    writer = None if said == "there is no writer" else SafetensorsWriter
    forms = [WrittenForm(name=name, bits=bits) for name, bits in writes]
    with pytest.raises(AssertionError, match=said):
        tried(SafetensorsFile, writes=forms, writer=writer).test_forms_that_are_written_have_names_and_a_writer()


@pytest.mark.parametrize(
    "suffixes", [(), ("",), (".",), ("tried",), (".Tried",), (".a.tried",), (".tried ", "x"), (".pt",)]
)
def test_suffixes_that_no_file_is_found_by_fail(suffixes):
    with pytest.raises(AssertionError, match="suffix"):
        tried(SafetensorsFile, suffixes=suffixes).test_the_offer_says_what_its_files_are_called()


@pytest.mark.parametrize(
    ("unsupported", "error"),
    [
        (lambda machine, need: ["it needs a CUDA device"], AssertionError),
        (lambda machine, need: [Reason("device", "it is odd")] * int(torch.ones(8).sum()), AssertionError),
        (lambda machine, need: [Reason("device", need.device)], AttributeError),
    ],
)
def test_reasons_that_are_none_fail(unsupported, error):
    with pytest.raises(error):
        tried(SafetensorsFile, unsupported=unsupported).test_unsupported_answers_for_any_machine_and_allocates_nothing()


def test_opening_a_file_with_torch_fails(tmp_path, monkeypatch):
    (tmp_path / "heavy_format.py").write_text(
        "from dit360_core.plugins import WeightsFormat\n"
        "from dit360_core.models.weights.forms.safetensors_file import SafetensorsFile\n"
        "def load():\n"
        "    import torch\n"
        "    return SafetensorsFile\n"
        "def dit360_formats():\n"
        "    yield WeightsFormat(name='heavy', api=1, suffixes=('.heavy',), load=load)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "heavy_format", raising=False)

    class Tried(Int8):
        module = "heavy_format"

        def offer(self):
            import heavy_format

            return next(iter(heavy_format.dit360_formats()))

    Tried().test_importing_the_plugin_imports_nothing_heavy()
    with pytest.raises(AssertionError, match="opening a file imports torch"):
        Tried().test_a_header_is_read_without_torch()


def test_a_form_that_cannot_be_read_here_is_left_out_with_its_reason():
    with pytest.raises(unittest.SkipTest, match="no-such-library"):
        getattr(tried(SafetensorsFile, requires=("no-such-library",)), READ)()


def test_every_plain_form_is_compared_in_its_own_numbers(tmp_path):
    class Tried(Int8):
        error = 0.0

        def write(self, path, tensors):
            dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
            every = zip(tensors.items(), (*dtypes, torch.float32), strict=True)
            save_file({name: tensor.to(dtype) for (name, tensor), dtype in every}, path)
            assert {about.form for about in SafetensorsFile(path).tensors.values()} == set(PLAIN)

    getattr(Tried(), READ)()
