"""GGUF files that are written: read by the gguf package, under ComfyUI's and llama.cpp's names, near to the numbers."""

import dit360_core as dit360
import dit360_format_gguf
import gguf
import numpy as np
import pytest
import torch
import weight_files
from dit360_core.errors import InputError
from dit360_core.testing import FormatConformance
from dit360_format_gguf import WRITTEN
from dit360_format_gguf.k_types import encoded
from dit360_format_gguf.writing import FALLBACK, GgufWriter
from weight_files import original_names, write_gguf

KS = tuple(FALLBACK)
OFF = {"Q6_K": 0.0185, "Q5_K": 0.037, "Q4_K": 0.074, "Q3_K": 0.148, "Q2_K": 0.285}
"""Type → share that is lost of numbers that are distributed normally. Rounded to the nearest of scales that are those
of the largest number it is 1.9, 3.8, 7.9, 15.3 and 32.6 %."""


class Gguf(FormatConformance):
    module = "dit360_format_gguf"
    kind_written = "Q8_0"

    def offer(self):
        return next(iter(dit360_format_gguf.dit360_formats()))

    def write(self, path, tensors):
        stored = {}
        for name, tensor in tensors.items():
            kind = self.kind_written if tensor.ndim == 2 else "F32"
            numbers = tensor.numpy()
            data = encoded(tensor, kind).numpy() if kind in KS else gguf.quants.quantize(numbers, TYPES[kind])
            stored[name] = data, kind
        write_gguf(path, stored)


TYPES = gguf.GGMLQuantizationType


class TestQ80(Gguf):
    error = 0.01


class TestQ4K(Gguf):
    error = 0.1
    kind_written = "Q4_K"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Type → the embedded transformer in it, and what was told of that."""
    place = tmp_path_factory.mktemp("written")
    found = {}
    for mode in (*WRITTEN, "none"):
        file = place / f"{mode}.gguf"
        found[mode] = file, dit360.quantize("tiny", file, quantization_mode=mode, lora_mode="fuse")
    return found


def numbers_in(file):
    """What the gguf package reads."""
    reader = gguf.GGUFReader(file)
    return {
        tensor.name: (
            tensor.tensor_type.name,
            gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]),
        )
        for tensor in reader.tensors
    }


# ------------------------------------------------------------------------------------------------------------ K types


@pytest.mark.parametrize("kind", KS)
def test_k_types_are_near_to_the_numbers(kind):
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 1024, generator=draw) * torch.rand(64, 1, generator=draw)
    back = gguf.quants.dequantize(encoded(matrix, kind).numpy(), TYPES[kind])
    off = np.linalg.norm(back - matrix.numpy()) / np.linalg.norm(matrix.numpy())
    assert 0.5 * OFF[kind] < off < OFF[kind]


ODD = {
    "zeros": torch.zeros(2, 256),
    "one number": torch.full((2, 256), 5.0),
    "one number below zero": torch.full((2, 256), -0.3),
    "one that is not zero": torch.zeros(2, 256).index_fill(1, torch.tensor([7]), 2.0),
    "one far from the others": torch.linspace(-0.01, 0.01, 512).view(2, 256).index_fill(1, torch.tensor([100]), 90.0),
    "above zero": torch.linspace(3, 4, 512).view(2, 256),
    "below zero": torch.linspace(-4, -3, 512).view(2, 256),
    "small": 1e-6 * torch.linspace(-1, 1, 512).view(2, 256),
    "large": 1e6 * torch.linspace(-1, 1, 512).view(2, 256),
}


@pytest.mark.parametrize("numbers", ODD.values(), ids=ODD)
@pytest.mark.parametrize("kind", KS)
def test_odd_blocks_are_finite_and_no_further_off_than_their_steps(kind, numbers):
    back = torch.from_numpy(gguf.quants.dequantize(encoded(numbers, kind).numpy(), TYPES[kind]))
    assert back.isfinite().all()
    most = numbers.abs().max()
    # A step of two bits is a third of the range. What fp16 cannot tell from 0, or has no room for, is beyond all.
    assert (back - numbers).abs().max() <= (0.35 * most if 1e-3 < most < 1e5 else 1.01 * most)
    if not numbers.any():
        assert not back.any()


@pytest.mark.parametrize("kind", WRITTEN)
def test_bits_are_those_that_are_said(kind):
    assert 8 * GgufWriter().bytes_of(kind, (8, 512)) / (8 * 512) == WRITTEN[kind]


def test_rows_that_do_not_fit_have_the_type_next_to_it():
    writer = GgufWriter()
    assert {kind: writer.form_for(kind, (8, 96)) for kind in KS} == FALLBACK
    assert writer.form_for("Q4_K", (8, 512)) == "Q4_K"
    assert writer.form_for("Q4_K", (8, 30)) == writer.form_for("Q8_0", (8, 30)) == "F16"


# -------------------------------------------------------------------------------------------------------- whole parts


@pytest.mark.parametrize("mode", [*WRITTEN, "none"])
def test_the_gguf_package_reads_every_tensor_under_its_makers_name(mode, written, tiny_folder):
    file, state = written[mode]
    found, right = numbers_in(file), original_names(weight_files.part(tiny_folder, "transformer"))
    assert found.keys() == right.keys()
    layers = {layer.name: layer for layer in state.quantized[0].layers}
    for name, (kind, numbers) in found.items():
        layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        assert kind in (("F32", "F16", "BF16") if layer is None else (layer.kernel,))
        off = np.linalg.norm(numbers - right[name].numpy()) / np.linalg.norm(right[name].numpy())
        most = 1e-3 if layer is None else {**OFF, "Q8_0": 0.01, "Q5_0": 0.06, "Q5_1": 0.06}.get(kind, 0.13)
        assert off <= 1.3 * most, (name, kind)


@pytest.mark.parametrize(
    ("mode", "least"),
    [("Q8_0", 50), ("Q6_K", 50), ("Q5_K", 41), ("Q4_K", 38), ("Q4_0", 32), ("Q2_K", 30), ("none", 60)],
)
def test_a_file_paints_what_the_model_paints(mode, least, written, tiny):
    asked = {"prompt": "a castle above a meadow", "width": 128, "steps": 2, "seed": 1}
    pipe = dit360.load("tiny", precision="fp32", device="cpu", transformer=str(written[mode][0]))
    one, other = (np.asarray(each.generate(**asked).image).astype(float) for each in (pipe, tiny))
    assert 10 * np.log10(255**2 / max(np.square(one - other).mean(), 1e-9)) > least


def test_the_header_says_what_it_is(written):
    fields = gguf.GGUFReader(written["Q4_K"][0]).fields
    assert fields["general.architecture"].contents() == "flux"
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_S
    assert fields["general.quantization_version"].contents() == 2
    assert '"made_from": "tiny"' in fields["dit360"].contents()


def test_a_t5_has_llamas_names_and_is_read_back(tmp_path, tiny):
    file = tmp_path / "t5.gguf"
    state = dit360.quantize("tiny", file, quantization_mode="Q8_0", quantization_parts="text")
    assert state.quantized[0].given_as == "t5"
    reader = gguf.GGUFReader(file)
    names = {tensor.name for tensor in reader.tensors}
    assert reader.fields["general.architecture"].contents() == "t5encoder"
    assert {
        "token_embd.weight",
        "enc.output_norm.weight",
        "enc.blk.0.attn_q.weight",
        "enc.blk.0.ffn_gate.weight",
    } < names
    assert all(name.startswith(("enc.", "token_embd")) for name in names)
    pipe = dit360.load("tiny", precision="fp32", device="cpu", t5=str(file))
    one, other = (each.encode("a castle").positive.tokens for each in (pipe, tiny))
    assert float((one - other).norm() / other.norm()) < 0.02


def test_a_mode_of_another_kind_is_told_with_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match=r"A .gguf file cannot be written with .*; did you mean Q4_K .*: Q8_0"):
        dit360.quantize("tiny", tmp_path / "x.gguf", quantization_mode="Q4_K_M")
    assert not list(tmp_path.iterdir())
