"""Single files of weights whose headers are damaged or made to harm: each is told in one sentence, at once, and nothing
is taken of what they claim."""

import contextlib
import json
import math
import os
import pickle
import random
import re
import struct
import time
import tracemalloc
from pathlib import Path

import attrs
import gguf
import pytest
from command_line import dit360
from dit360_core.errors import ModelError
from dit360_core.models.weights.forms.opening import open_file
from dit360_format_gguf.file import READ

FEW, MANY = (int(os.environ.get("DIT360_HEADERS", number)) for number in (300, 10_000))
MB = 2**20
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
EDGES = (0, 1, 2, 3, 5, 31, 32, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**47, 2**48, 2**53,
         2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1)  # fmt: skip
TEXTS = (
    "", "a", "x.weight", "x.bias", "x\ny.weight", "x\x1b[2Jy.weight", "x\0.weight", "\ud800.weight", "\u202ex.scale",
    "..", "../../x.weight", "__metadata__", "x" * 511, "x" * 5000, "\U0001f3d4.weight", "x.comfy_quant", "scaled_fp8",
    "x.weight_scale", "x.scale_weight", "x.weight_scale_2", "a\nb.qweight", "a\nb.absmax", "enc.blk.0.attn_q.weight",
    "general.alignment", "comfy.gguf.orig_shape.x.weight", "double_blocks.0.img_attn.qkv.weight",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- GGUF by hand


@attrs.define
class Field:
    """Some bytes of a header, and what they are: a format of struct for a number, or ``text``."""

    kind: str
    data: bytes


def number(form, value):
    size = struct.calcsize(form)
    return Field(form, (value % 256**size).to_bytes(size, "big" if form[0] == ">" else "little"))


def text(words):
    data = words.encode("utf-8", "surrogatepass")
    return [number("<Q", len(data)), Field("text", data)]


def listed(of, values):
    return [number("<I", 9), number("<I", of), number("<Q", len(values)), *[one for value in values for one in value]]


KEYS = {
    "general.architecture": [number("<I", 8), *text("flux")],
    "general.alignment": [number("<I", 4), number("<I", 32)],
    "general.file_type": [number("<I", 4), number("<I", 7)],
    "flux.scale": [number("<I", 6), Field("<f", struct.pack("<f", 0.5))],
    "flux.on": [number("<I", 7), Field("<B", b"\1")],
    "tokenizer.tokens": listed(8, [text(f"token {n}") for n in range(40)]),
    "tokenizer.scores": listed(6, [[Field("<f", struct.pack("<f", n))] for n in range(60)]),
    "comfy.gguf.orig_shape.x.weight": listed(5, [[number("<i", 64)], [number("<i", 32)]]),
    "nested": listed(9, [listed(4, [[number("<I", 1)]])[1:]]),
}
TENSORS = {
    "x.weight": ((64, 32), "Q8_0"), "x.bias": ((64,), "F32"), "y.weight": ((4, 256), "Q4_K"),
    "double_blocks.0.img_attn.qkv.weight": ((6, 64), "Q5_1"), "n.scale": ((32,), "BF16"),
    "z.weight": ((2, 256), "Q3_K"),
}  # fmt: skip


def gguf_fields():
    """A whole file, which is well."""
    found = [Field("magic", b"GGUF"), number("<I", 3), number("<Q", len(TENSORS)), number("<Q", len(KEYS))]
    for name, value in KEYS.items():
        found += [*text(name), *(attrs.evolve(field) for field in value)]
    begin = 0
    for name, (shape, kind) in TENSORS.items():
        type_ = gguf.GGMLQuantizationType[kind]
        block, width = gguf.GGML_QUANT_SIZES[type_]
        found += [*text(name), number("<I", len(shape)), *(number("<Q", length) for length in reversed(shape))]
        found += [number("<I", int(type_)), number("<Q", begin)]
        begin += -(-math.prod(shape) // block * width // 32) * 32
    header = sum(len(field.data) for field in found)
    return [*found, Field("data", bytes(-header % 32 + begin))]


def damaged_gguf(draw):
    fields = gguf_fields()
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        change = draw.random()
        at = draw.randrange(len(fields) - 1)
        if change < 0.45:
            numbers = [field for field in fields if field.kind.startswith("<")]
            field = draw.choice(numbers)
            old = int.from_bytes(field.data, "little")
            new = draw.choice((*EDGES, old + 1, old - 1, old * 2, draw.randrange(2**64), draw.randrange(64)))
            field.data = (new % 256 ** len(field.data)).to_bytes(len(field.data), "little")
        elif change < 0.6:
            places = [place for place, field in enumerate(fields) if field.kind == "text"]
            place = draw.choice(places)
            other = draw.choice((*TEXTS, fields[draw.choice(places)].data.decode("utf-8", "replace")))
            fields[place - 1 : place + 1] = text(other)
            if draw.random() < 0.2:
                fields[place].data = draw.randbytes(len(fields[place].data))
        elif change < 0.7:
            depth = draw.choice((2, 3, 4, 5, 50, 2000))
            deep = [number("<I", 9), number("<Q", draw.choice((1, 1, 1, 2**40)))] * depth
            fields[at:at] = [*text("deep"), number("<I", 9), *deep]
        elif change < 0.8:
            del fields[at]
        elif change < 0.9:
            fields.insert(draw.randrange(len(fields) - 1), fields[at])
        else:
            other = draw.randrange(len(fields) - 1)
            fields[at], fields[other] = fields[other], fields[at]
    return spoilt(draw, b"".join(field.data for field in fields), 0.3)


# -------------------------------------------------------------------------------------------------- safetensors by hand

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "I16": 2,
         "I32": 4, "I64": 8, "U64": 8, "BOOL": 1, "C64": 8}  # fmt: skip
MARKS = (
    '{"format":"int8_tensorwise","convrot":true,"convrot_groupsize":64}', '{"format":"float8_e4m3fn"}', "{}", "[]", "",
    '{"format":"nvfp4"}', '{"format":["x"]}', '{"format":{}}', '{"format":"a\\nb"}', "{" * 2000, "[" * 4000, "nul",
    "\0\0", "{\\ud800}",
    '{"format":"int8_tensorwise","convrot":1,"convrot_groupsize":1e999}', '{"convrot":true,"convrot_groupsize":{}}',
    '{"convrot":true,"convrot_groupsize":-64}', '{"convrot":true,"convrot_groupsize":' + "9" * 400 + "}",
    '{"format":"int8_tensorwise","convrot":true,"convrot_groupsize":' + "9" * 3900 + "}", '{"format":' + "[" * 1500,
)  # fmt: skip
CENTRAL = (
    "{}", "[]", "null", "{", '{"layers":[]}', '{"layers":{"x":null}}', '{"layers":{"x":{"format":"nvfp4"}}}',
    '{"layers":{"":{"format":"int8_tensorwise"}}}', '{"layers":{"x":{"format":"int8_tensorwise","convrot":true}}}',
    '{"layers":' + "[" * 50_000, '{"layers":{"x":[["format",5]]}}', '{"layers":{"x":[[[],5]]}}', '{"layers":5}',
    json.dumps({"layers": {f"n{n}": {"format": "x"} for n in range(500)}}),
)  # fmt: skip


def safetensors_tensors():
    """Name → (dtype, shape, bytes), which are well."""
    mark = MARKS[0].encode()
    return {
        "x.weight": ("I8", [8, 64], bytes(512)),
        "x.weight_scale": ("F32", [8, 1], bytes(32)),
        "x.comfy_quant": ("U8", [len(mark)], mark),
        "y.weight": ("F8_E4M3", [4, 32], bytes(128)),
        "y.scale_weight": ("F32", [1], bytes(4)),
        "y.scale_input": ("F32", [], bytes(4)),
        "scaled_fp8": ("F8_E4M3", [2], bytes(2)),
        "double_blocks.0.img_attn.qkv.weight": ("F16", [6, 64], bytes(768)),
        "n.scale": ("BF16", [32], bytes(64)),
    }


def header_of(tensors, told=()):
    """Of tensors that lie one after the other."""
    found, begin = {"__metadata__": told} if told else {}, 0
    for name, (dtype, shape, data) in tensors.items():
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    return found


def laid_out(tensors, header=None, length=None):
    """A file: the length of the header, the header, the numbers."""
    words = json.dumps(header_of(tensors) if header is None else header).encode()
    length = len(words) if length is None else length
    return length.to_bytes(8, "little") + words + b"".join(data for _, _, data in tensors.values())


def damaged_safetensors(draw):
    tensors, told = safetensors_tensors(), {}
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        change, name = draw.random(), draw.choice(list(tensors or {"x": 0}))
        dtype, shape, data = tensors.get(name, ("F32", [1], bytes(4)))
        if change < 0.25:
            dtype = draw.choice(list(SIZES))
            tensors[name] = (dtype, shape, draw.randbytes(math.prod(shape) * SIZES[dtype]))
        elif change < 0.45:
            shape = draw.choice(([], [0], [1], [8], [8, 0], [64, 8], [2, 4, 64], [8, 2], [3], [512]))
            tensors[name] = (dtype, shape, draw.randbytes(math.prod(shape) * SIZES[dtype]))
        elif change < 0.65:
            new = draw.choice((*TEXTS, f"{name}_scale", name.replace("weight", "comfy_quant"), f"{name}\n"))
            tensors[new] = tensors.pop(name, (dtype, shape, data))
        elif change < 0.8:
            said = draw.choice(MARKS).encode()
            tensors[f"{draw.choice('xy')}.comfy_quant"] = ("U8", [len(said)], said)
        elif change < 0.9:
            told["_quantization_metadata"] = draw.choice(CENTRAL)
        else:
            tensors.pop(name, None)
    header = header_of(tensors, told)
    if draw.random() < 0.35 and len(header) > 1:
        entry = header[draw.choice([name for name in header if name != "__metadata__"] or [next(iter(header))])]
        key = draw.choice(("dtype", "shape", "data_offsets", "other"))
        entry[key] = draw.choice(
            (
                "Q7",
                None,
                [],
                {},
                [draw.choice(EDGES)] * 2,
                [draw.choice(EDGES), 8],
                [-1, 5],
                [0, 1e300],
                [[1]],
                "F8_E8M0",
            )
        )
    length = draw.choice(EDGES) if draw.random() < 0.1 else None
    return spoilt(draw, laid_out(tensors, header, length), 0.35)


def spoilt(draw, data, share):
    """With flipped bits, without its end, or with bytes too many, in some of the cases."""
    found, change = bytearray(data), draw.random() / share
    if change < 0.4:
        for _ in range(draw.choice((1, 1, 2, 8, 60))):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif change < 0.7:
        del found[draw.randrange(len(found)) :]
    elif change < 1:
        at = draw.randrange(len(found))
        found[at:at] = draw.randbytes(draw.choice((1, 4, 8, 300)))
    return bytes(found)


# -------------------------------------------------------------------------------------------------------- what they do

MADE = {"gguf": damaged_gguf, "safetensors": damaged_safetensors}
WELL = {
    "gguf": lambda: b"".join(field.data for field in gguf_fields()),
    "safetensors": lambda: laid_out(safetensors_tensors()),
}


def opened(file):
    """Opens a file and reads all its tensors, as far as they mean something; or the sentence in which it is refused."""
    try:
        found = open_file(file)
        for name, about in found.tensors.items():
            if about.known:
                found.read(name)
    except ModelError as error:
        sentence = str(error).replace(str(file), "FILE")
        # What safetensors itself says of a file is quoted as it says it, names and all.
        told = re.sub(r"\(Error while deserializing header: .*\)", "(…)", sentence, flags=re.DOTALL)
        assert re.fullmatch(r"[^\n]+\.", told), repr(sentence)
        assert told.isprintable(), repr(sentence)
        assert len(told) < 1200, repr(sentence)
        return sentence
    return None


def resident(field):
    """Bytes of this process that are resident, now (VmRSS) or at most (VmHWM), where the kernel tells."""
    status = Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(fields[field].split()[0]) * 1024 if field in fields else 0


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "many"])
@pytest.mark.parametrize("form", MADE)
def test_of_many_damaged_files_each_is_opened_or_refused_in_one_sentence(form, count, tmp_path):
    """Seconds are of the processor's time, which do not depend on what else the machine does."""
    draw, file = random.Random(f"{form} {count}"), tmp_path / f"damaged.{form}"
    sentences, well = set(), 0
    file.write_bytes(WELL[form]())
    assert opened(file) is None  # which imports what is imported on the way
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the most that was resident is what is resident now
    at_first = resident("VmRSS")
    tracemalloc.start()
    try:
        for number_ in range(count):
            data = MADE[form](draw)
            file.write_bytes(data)
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.process_time()
            sentence = opened(file)
            assert time.process_time() - began < 1, (number_, sentence)
            taken = tracemalloc.get_traced_memory()[1] - before
            assert taken < len(data) + 4 * MB, (number_, sentence, taken)
            well += sentence is None
            sentences.add(re.sub(r"\d+|'[^']*'", "…", sentence or ""))
    finally:
        tracemalloc.stop()
    # Of all together, what Rust and PyTorch took as well; a file has some kilobytes.
    assert max(resident("VmHWM") - at_first, 0) < 64 * MB
    # The damages come far: most files are refused, for many reasons, and some are still well.
    assert 0.03 * count < well < 0.5 * count
    assert len(sentences) > 30, sentences


# ---------------------------------------------------------------------------------------- GGUF on the command line


def changed(change):
    """A whole file with other fields."""
    fields = gguf_fields()
    change(fields)
    return b"".join(field.data for field in fields)


def replaced(place, *others):
    """A file with other fields in the place of one."""

    def change(fields):
        fields[place : place + 1] = others

    return changed(change)


def of_tensor(name, offset, form, value):
    """A file with another number so many fields behind the name of a tensor."""

    def change(fields):
        place = [field.data for field in fields].index(name.encode())
        assert fields[place + offset].kind == form
        fields[place + offset] = number(form, value)

    return changed(change)


def renamed(name, words):
    """A file with a tensor of another name."""

    def change(fields):
        place = [field.data for field in fields].index(name.encode())
        fields[place - 1 : place + 1] = words

    return changed(change)


def with_value(name, value):
    """A file with another value of a key."""

    def change(fields):
        place = [field.data for field in fields].index(name.encode()) + 1
        fields[place : place + len(KEYS[name])] = value

    return changed(change)


GOOD = WELL["gguf"]()
DEEP = [number("<I", 9), *[number("<I", 9), number("<Q", 1)] * 50]
SHAPE = "comfy.gguf.orig_shape.x.weight"
DAMAGED = {
    "nothing in it": (b"", "it does not begin as a GGUF file does"),
    "a safetensors file by another name": (b'\2\0\0\0\0\0\0\0{}', "it does not begin as a GGUF file does"),
    "a pickle by another name": (pickle.dumps([1], 2), "it does not begin as a GGUF file does"),
    "a web page": (b"<!DOCTYPE html>", "it does not begin as a GGUF file does"),
    "a header that is cut": (GOOD[:300], "would reach beyond its 300 bytes"),
    "numbers that are cut": (GOOD[:-64], "is cut off: z.weight reaches beyond its end; download it again"),
    "the first version": (replaced(1, number("<I", 1)), "it is of version 1, and 2 and 3 are read"),
    "a version to come": (replaced(1, number("<I", 4)), "it is of version 4"),
    "the other order of bytes": (replaced(1, number(">I", 3)), "its numbers are in the other order of bytes"),
    "2^64-1 tensors": (replaced(2, number("<Q", -1)), "its counts would reach beyond its"),
    "2^60 keys": (replaced(3, number("<Q", 2**60)), "its counts would reach beyond its"),
    "a key of 2^63 letters": (replaced(4, number("<Q", 2**63)), "a name has 9223372036854775808 letters"),
    "a name of 2^32 letters": (renamed("x.weight", [number("<Q", 2**32)]), "a name has 4294967296 letters"),
    "a text that is none": (replaced(5, Field("text", b"\xff" * 20)), r"a text is none \(invalid start byte\)"),
    "a value of an unknown type": (with_value("flux.on", [number("<I", 13)]), "a value is of the type 13"),
    "lists in one another": (with_value("nested", DEEP), "its lists lie in one another"),
    "a list of 2^62 numbers": (
        with_value("nested", [number("<I", 9), number("<I", 12), number("<Q", 2**62)]), "a list would reach beyond its"
    ),
    "a list of 2^40 texts": (
        with_value("nested", [number("<I", 9), number("<I", 8), number("<Q", 2**40)]), "a list would reach beyond its"
    ),
    "an alignment of 0": (with_value("general.alignment", [number("<I", 4), number("<I", 0)]), "its alignment is 0"),
    "an alignment that is a text": (with_value("general.alignment", [number("<I", 8), *text("x")]), "alignment is 'x'"),
    "no dimensions": (of_tensor("x.weight", 1, "<I", 0), "x.weight has 0 dimensions"),
    "nine dimensions": (of_tensor("x.weight", 1, "<I", 9), "x.weight has 9 dimensions"),
    "a shape beyond all memory": (of_tensor("x.weight", 2, "<Q", 2**63), r"has the shape \[9223372036854775808, 64\]"),
    "a shape of nothing": (of_tensor("x.weight", 2, "<Q", 0), r"x.weight has the shape \[0, 64\]"),
    "half a block": (of_tensor("x.weight", 2, "<Q", 48), "is damaged: x.weight has rows of 48 in blocks of 32"),
    "a place that is not aligned": (of_tensor("x.weight", 5, "<Q", 33), "x.weight begins at byte 33 of"),
    "a place beyond the end": (of_tensor("x.weight", 5, "<Q", 2**40), "x.weight begins at byte 1099511627776 of"),
    "a type that is none": (of_tensor("x.weight", 4, "<I", 999), "in a type of the number 999, which nobody here"),
    "a type that is not read": (
        of_tensor("y.weight", 4, "<I", int(gguf.GGMLQuantizationType.IQ2_XXS)),
        f"has y.weight in IQ2_XXS, which dit360 does not read; take a file in one of {', '.join(READ)}",
    ),
    "a name twice": (renamed("x.bias", text("x.weight")), "x.weight is there twice"),
    "a name of two lines": (renamed("x.bias", text("x\ny")), r"the name of a tensor cannot be shown \('x\\ny'\)"),
    "another shape": (
        with_value(SHAPE, listed(5, [[number("<i", 64)], [number("<i", 33)]])),
        r"says that x.weight has the shape \[64, 33\], and holds 2048 numbers",
    ),
    "a shape below nothing": (
        with_value(SHAPE, listed(5, [[number("<i", -64)], [number("<i", -32)]])),
        r"says that x.weight has the shape \[-64, -32\], and holds 2048 numbers",
    ),
    "a shape in words": (with_value(SHAPE, listed(8, [text("a"), text("b")])), r"the shape \['a', 'b'\], and holds"),
    "a file that is well, of something else": (GOOD, "holds no transformer of [^\\n]* but tensors"),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Each of them, told by one process that cannot import torch."""
    desk = tmp_path_factory.mktemp("gguf")
    for number_, (data, _) in enumerate(DAMAGED.values()):
        (desk / f"{number_}.gguf").write_bytes(data)
    asked = [
        ["generate", "a castle", "--model", "tiny", "--transformer", f"{number_}.gguf", "--width", 64, "-o", "new.png"]
        for number_ in range(len(DAMAGED))
    ]
    before = sorted(desk.iterdir())
    said = dict(zip(DAMAGED, dit360(*asked, cwd=desk, without=HEAVY), strict=True))
    assert sorted(desk.iterdir()) == before
    return said


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_gguf_file_is_named_with_its_fault_before_torch_is_imported(told, name):
    said, sentence = told[name], DAMAGED[name][1]
    assert said.code == 2, said
    file = f"{list(DAMAGED).index(name)}.gguf"
    assert re.fullmatch(rf"Error: [^\n]*{file}[^\n]*({sentence})[^\n]*\.\n", said.err), said.err
