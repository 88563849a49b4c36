"""GGUF files: every type means what the gguf package says, and models compute it from the file's own blocks."""

import dit360_core as dit360
import gguf
import numpy as np
import pytest
import torch
import weight_files
from dit360_core.models.running import Packed
from dit360_core.models.weights.forms import packed as packing
from dit360_core.models.weights.forms.packed import PackedEmbedding, PackedLayer, PackedLinear
from dit360_format_gguf.file import READ, GgufFile
from dit360_format_gguf.header import read_header
from lora_schemes import write as write_lora
from safetensors.torch import save_file
from weight_files import HALVES, as_gguf, original_names, random_blocks, write_gguf

CLOSE = 1e-5
PLAIN = ("F32", "F16", "BF16")
PICTURE = {"width": 64, "steps": 1, "seed": 3}
FULL = {"precision": "fp32", "device": "cpu"}
ROWS, COLUMNS = 6, 512


@pytest.fixture(scope="module")
def weights(tiny_folder):
    """The transformer's in Black Forest Labs' names, and T5's in its own."""
    found = {name: weight_files.part(tiny_folder, name) for name in ("transformer", "text_encoder_2")}
    return {**found, "transformer": original_names(found["transformer"])}


@pytest.fixture(scope="module")
def words(tiny):
    return tiny.encode("a castle", max_sequence_length=16)


def loaded(**given):
    return dit360.load("tiny", **{**FULL, **given})


def velocity(pipe, words):
    """What one step makes of noise."""
    return pipe.sample(words, **PICTURE).tensor


def embedding(pipe):
    return pipe.encode("a castle above a meadow").positive.tokens


def packed_layers(module):
    return [each for each in module.modules() if isinstance(each, PackedLayer)]


def held(module):
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


# --------------------------------------------------------------------------------------------------------- every type


def blocks_of(kind, *, every=False):
    """Rows of blocks of a type with random bits.

    every: the scales too, as long as they are finite.
    """
    blocks = random_blocks(kind, ROWS, COLUMNS)
    if every:
        width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
        flat, draw = blocks.reshape(-1, width), np.random.default_rng(7)
        for at in HALVES[kind]:
            bits = draw.integers(0, 2**16, len(flat), dtype=np.uint16)
            bits[(bits & 0x7C00) == 0x7C00] &= 0x83FF  # infinite, or no number
            flat[:, at : at + 2] = bits[:, None].view(np.uint8)
    return blocks


def one_tensor(folder, stored, name="x.weight", **more):
    """A file with one tensor, opened, and what gguf says of it."""
    means = write_gguf(folder / "one.gguf", {name: stored}, **more)
    return GgufFile(folder / "one.gguf"), means[name]


def test_all_types_are_tried():
    assert set(HALVES) == set(READ)


@pytest.mark.parametrize("every", [False, True], ids=["usual scales", "any scales"])
@pytest.mark.parametrize("kind", READ)
def test_blocks_of_every_type_are_turned_back_as_gguf_does(kind, every, tmp_path):
    file, means = one_tensor(tmp_path, (blocks_of(kind, every=every), kind))
    found = file.read("x.weight")
    assert isinstance(found, Packed)
    assert file.tensors["x.weight"].form == found.form == kind
    assert file.tensors["x.weight"].packed
    assert file.tensors["x.weight"].shape == found.shape == (ROWS, COLUMNS)
    assert file.tensors["x.weight"].bytes == found.nbytes
    dense = found.dense(torch.float32)
    assert torch.isfinite(dense).all()
    most = means.abs().amax(1, keepdim=True)
    assert ((dense - means).abs() <= 1e-6 * most).all()
    assert torch.equal(found.rows(2, 5).dense(torch.float32), dense[2:5])


@pytest.mark.parametrize("kind", PLAIN)
def test_numbers_that_are_whole_are_read_as_they_are(kind, tmp_path):
    numbers = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    stored = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    file, means = one_tensor(tmp_path, (stored, kind))
    found = file.read("x.weight")
    assert found.dtype == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    assert torch.equal(found.float(), means)
    assert not file.tensors["x.weight"].packed


@pytest.mark.parametrize("at_once", [1, 2000, 2**21])
@pytest.mark.parametrize("kind", READ)
def test_layers_compute_from_blocks_of_every_type(kind, at_once, tmp_path, monkeypatch):
    """Also where a matrix is turned back some rows at a time."""
    monkeypatch.setitem(packing.AT_ONCE, "cpu", at_once)
    file, means = one_tensor(tmp_path, (blocks_of(kind), kind))
    draw = torch.Generator().manual_seed(1)
    x, bias = torch.randn(2, 3, COLUMNS, generator=draw), torch.randn(ROWS, generator=draw)
    right = x @ means.T + bias
    assert torch.allclose(PackedLinear(file.read("x.weight"), bias)(x), right, rtol=0, atol=CLOSE * right.abs().max())
    ids = torch.tensor([[5, 0, 5], [3, 3, 1]])
    table = PackedEmbedding(file.read("x.weight").kept(), torch.float32)
    assert torch.allclose(table(ids), means[ids], rtol=1e-6, atol=1e-6 * means.abs().max())


# -------------------------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module", params=["Q8_0", "Q5_1", "Q4_0"])
def case(request, tmp_path_factory, weights):
    """A model with a transformer and a T5 in a type, and the one with what gguf says that they mean."""
    folder, given, plain = tmp_path_factory.mktemp("whole"), {}, {}
    for option, part in (("transformer", "transformer"), ("t5", "text_encoder_2")):
        given[option], plain[option] = str(folder / f"{part}.gguf"), str(folder / f"{part}.safetensors")
        save_file(write_gguf(given[option], as_gguf(weights[part], request.param)), plain[option])
    return request.param, given, loaded(**given), loaded(**plain)


def test_a_model_computes_what_its_blocks_mean(case, words):
    _, _, pipe, plain = case
    assert torch.allclose(velocity(pipe, words), velocity(plain, words), rtol=0, atol=CLOSE)
    assert torch.allclose(embedding(pipe), embedding(plain), rtol=0, atol=CLOSE)
    bare = loaded()
    assert (velocity(pipe, words) - velocity(bare, words)).abs().max() > 100 * CLOSE
    assert (embedding(pipe) - embedding(bare)).abs().max() > 100 * CLOSE


def test_what_is_held_are_the_bytes_of_the_file(case):
    kind, given, pipe, _ = case
    for option, module in (("transformer", pipe.engine.denoiser), ("t5", pipe.engine.pipe.text_encoder_2)):
        size = sum(tensor.n_bytes for tensor in gguf.GGUFReader(given[option]).tensors)
        assert held(module) == pytest.approx(size, rel=0.05)
        assert {layer.form for layer in packed_layers(module)} == {kind}
    assert {part.part for part in pipe.state.quantized} == {"transformer", "text_encoder_2"}
    assert all(set(part.kernels) == {kind} for part in pipe.state.quantized)


def test_what_it_weighs_is_predicted(case):
    _, _, pipe, _ = case
    parts = pipe.engine.pipe
    whole = sum(map(held, (parts.transformer, parts.text_encoder, parts.text_encoder_2, parts.vae)))
    assert [phase.weights for phase in pipe.predict(width=64).phases] == 4 * [pytest.approx(whole, rel=0.1)]


@pytest.mark.long
@pytest.mark.parametrize("where", [{"evict": "all"}, {"offload": "disk"}], ids=str)
def test_where_weights_rest_does_not_change_the_picture(where, case):
    _, given, right, _ = case
    asked, pipe = {"prompt": "a castle", **PICTURE}, loaded(**given, **where)
    wanted = right.generate(**asked).image.tobytes()
    assert pipe.generate(**asked).image.tobytes() == wanted
    assert pipe.generate(**asked).image.tobytes() == wanted


def test_a_lora_stays_beside_the_blocks(case, words, tmp_path):
    _, given, _, _ = case
    plain = {option: file.replace(".gguf", ".safetensors") for option, file in given.items()}
    lora = str(write_lora(tmp_path, "PEFT")[0])
    pipe, right = loaded(**given, lora=lora), loaded(**plain, lora=lora)
    assert (pipe.plan.lora_mode, right.plan.lora_mode) == ("adapter", "fuse")
    assert torch.allclose(velocity(pipe, words), velocity(right, words), rtol=0, atol=CLOSE)


@pytest.mark.long
def test_blocks_can_be_quantized_anew(case, words):
    _, given, _, _ = case
    plain = {option: file.replace(".gguf", ".safetensors") for option, file in given.items()}
    pipe, right = (loaded(**files, quantization_mode="int8") for files in (given, plain))
    assert torch.allclose(velocity(pipe, words), velocity(right, words), rtol=0, atol=CLOSE)
    assert not packed_layers(pipe.engine.denoiser)


@pytest.mark.parametrize("names", ["diffusers", "Black Forest Labs"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_is_found_under_its_names(names, prefix, tmp_path, tiny_folder, weights, words):
    tensors = weights["transformer"]
    if names == "diffusers":
        tensors = weight_files.part(tiny_folder, "transformer")
    stored = as_gguf({prefix + name: tensor for name, tensor in tensors.items()}, "F16")
    means = write_gguf(tmp_path / "given.gguf", stored)
    assert len(means) == len(tensors)
    pipe = loaded(transformer=str(tmp_path / "given.gguf"))
    assert torch.allclose(velocity(pipe, words), velocity(loaded(), words), rtol=0, atol=1e-6)
    assert pipe.state.quantized == ()


def in_llamas_names(tensors):
    """A T5 encoder's as in llama.cpp's files, by the gguf package's own table."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 3)
    named = {table.get_name(name, (".weight",)): tensor for name, tensor in tensors.items()}
    assert None not in named
    assert len(named) == len(tensors)
    return named


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_t5_is_found_under_llamas_names(kind, tmp_path, weights):
    stored = as_gguf(in_llamas_names(weights["text_encoder_2"]), kind)
    write_gguf(tmp_path / "llama.gguf", stored)
    means = write_gguf(tmp_path / "own.gguf", as_gguf(weights["text_encoder_2"], kind))
    save_file(means, tmp_path / "plain.safetensors")
    right = embedding(loaded(t5=str(tmp_path / "plain.safetensors")))
    for name in ("llama", "own"):
        pipe = loaded(t5=str(tmp_path / f"{name}.gguf"))
        assert torch.allclose(embedding(pipe), right, rtol=0, atol=CLOSE)
        assert bool(packed_layers(pipe.engine.pipe.text_encoder_2)) == (kind == "Q8_0")


def test_a_t5_under_llamas_names_that_lacks_a_tensor_is_told_by_its_own(tmp_path, weights):
    named = in_llamas_names(weights["text_encoder_2"])
    named.pop("enc.blk.1.ffn_gate.weight")
    write_gguf(tmp_path / "llama.gguf", as_gguf(named, "Q8_0"))
    with pytest.raises(dit360.ModelError, match=r"lacks encoder\.block\.1\.layer\.1\.DenseReluDense\.wi_0\.weight"):
        loaded(t5=str(tmp_path / "llama.gguf"))


# ---------------------------------------------------------------------------------------------- tensors of other shapes


SHAPED = {
    "rows of other lengths": ((48, 256), (192, 64)),
    "a convolution": ((9, 256), (16, 16, 3, 3)),
    "one row": ((2048,), (64, 32)),
    "as it is": ((48, 256), (48, 256)),
}


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(("held_as", "shape"), SHAPED.values(), ids=SHAPED)
def test_a_tensor_has_the_shape_that_it_had(held_as, shape, kind, tmp_path):
    """ComfyUI's converter folds what does not fit into rows of 256, and says what it was."""
    numbers = np.random.default_rng(0).standard_normal(held_as, dtype=np.float32)
    stored = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    told = ("add_array", "comfy.gguf.orig_shape.x.weight", list(shape))
    file, means = one_tensor(tmp_path, (stored, kind), values=[told])
    assert file.tensors["x.weight"].shape == shape
    found = file.read("x.weight")
    dense = found.dense(torch.float32) if isinstance(found, Packed) else found
    assert torch.equal(dense, means.reshape(shape))
    assert isinstance(found, Packed) == (kind != "F32" and held_as == shape)


def test_a_model_with_a_folded_matrix_computes_it_in_full(tmp_path, weights, words):
    """And all others from their blocks."""
    tensors = weights["transformer"]
    stored = as_gguf(tensors, "Q8_0")
    numbers = tensors["img_in.weight"].numpy().reshape(96, 256)
    stored["img_in.weight"] = (gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0), "Q8_0")
    told = ("add_array", "comfy.gguf.orig_shape.img_in.weight", [192, 128])
    means = write_gguf(tmp_path / "given.gguf", stored, values=[told])
    means["img_in.weight"] = means["img_in.weight"].reshape(192, 128)
    save_file(means, tmp_path / "plain.safetensors")
    pipe, plain = (loaded(transformer=str(tmp_path / name)) for name in ("given.gguf", "plain.safetensors"))
    assert torch.allclose(velocity(pipe, words), velocity(plain, words), rtol=0, atol=CLOSE)
    layers = dict(pipe.engine.denoiser.named_modules())
    assert not isinstance(layers["x_embedder"], PackedLayer)
    assert isinstance(layers["context_embedder"], PackedLinear)


# ----------------------------------------------------------------------------------------------------------- the header


VALUES = [
    ("add_uint8", "a.u8", 200), ("add_int8", "a.i8", -100), ("add_uint16", "a.u16", 60_000), ("add_int16", "a.i16", -5),
    ("add_uint32", "a.u32", 4_000_000_000), ("add_int32", "a.i32", -2_000_000_000), ("add_float32", "a.f32", 0.25),
    ("add_uint64", "a.u64", 2**63), ("add_int64", "a.i64", -(2**62)), ("add_float64", "a.f64", 1e300),
    ("add_bool", "a.yes", True), ("add_bool", "a.no", False), ("add_string", "a.text", "Straße 山\n"),
    ("add_string", "a.empty", ""), ("add_array", "a.ints", [1, 2, -3]), ("add_array", "a.floats", [0.5, -0.25]),
    ("add_array", "a.texts", ["one", "", "山"]), ("add_array", "a.long", list(range(5000))),
    ("add_array", "a.bools", [True, False]), ("add_array", "a.nested", [[1, 2], [3]]),
]  # fmt: skip


@pytest.mark.parametrize("alignment", [None, 64, 8])
def test_the_header_is_read_as_gguf_reads_it(alignment, tmp_path, weights):
    stored = {**as_gguf(weights["text_encoder_2"], "Q5_0"), "x.weight": (blocks_of("Q4_K"), "Q4_K"),
              "conv": (np.zeros((3, 2, 4, 5), np.float32), "F32")}  # fmt: skip
    write_gguf(tmp_path / "whole.gguf", stored, values=VALUES, alignment=alignment)
    found, right = read_header(tmp_path / "whole.gguf"), gguf.GGUFReader(tmp_path / "whole.gguf")
    assert list(found.entries) == [tensor.name for tensor in right.tensors]
    for tensor in right.tensors:
        entry = found.entries[tensor.name]
        assert entry.kind == tensor.tensor_type
        assert entry.shape == tuple(int(length) for length in reversed(tensor.shape))
        assert entry.begin == tensor.data_offset
    own = {name: field for name, field in right.fields.items() if not name.startswith("GGUF.")}
    assert list(found.values) == list(own)
    for name, field in own.items():
        if name not in ("a.long", "a.nested"):
            assert found.values[name] == field.contents(), name
    # Of long lists, as vocabularies are, some thousand are kept; gguf's own reader flattens what is nested.
    assert found.values["a.long"] == list(range(4096))
    assert found.values["a.nested"] == [[1, 2], [3]]
    file = GgufFile(tmp_path / "whole.gguf")
    for tensor in right.tensors:
        assert file.tensors[tensor.name].bytes == tensor.n_bytes
    assert file.metadata["general.architecture"] == "flux"
    assert file.metadata["a.u64"] == str(2**63)


UNREAD = ["Q8_K", "IQ2_XXS", "IQ1_S", "TQ1_0", "I8", "I32", "F64"]


@pytest.mark.parametrize("kind", UNREAD)
def test_a_type_that_is_not_read_is_told_by_its_name(kind, tmp_path):
    type_ = gguf.GGMLQuantizationType[kind]
    block, width = gguf.GGML_QUANT_SIZES[type_]
    writer = gguf.GGUFWriter(str(tmp_path / "one.gguf"), "flux")
    writer.add_tensor("x.weight", np.zeros((4, 256 // block * width), np.uint8), raw_dtype=type_)
    for step in ("header_to", "kv_data_to", "tensors_to"):
        getattr(writer, f"write_{step}_file")()
    writer.close()
    with pytest.raises(dit360.ModelError, match=f"x.weight in {kind}, which dit360 does not read; take a file in one"):
        GgufFile(tmp_path / "one.gguf")
