"""Weights in the forms that people have, in single files: they compute what they mean, from the file's own bits."""

import json
import re

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
import weight_files
from dit360_core.models.weights.forms import packed
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.models.weights.forms.packed import PackedEmbedding, PackedLayer, PackedLinear
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.planning.forecast import chosen_setup, subject_of
from dit360_core.plugins.registry import default_registry
from lora_schemes import write as write_lora
from safetensors.torch import load_file, save_file
from weight_files import CONTAINERS, E4M3, FORMS, Form, as_tensor, hadamard, original_names

CLOSE = 1e-5
PICTURE = {"width": 64, "steps": 1, "seed": 3}
FULL = {"precision": "fp32", "device": "cpu"}
PLANNED = (SampleOptions(prompt="any", width=64), DecodeOptions())
PARTS = {"transformer": "transformer", "t5": "text_encoder_2"}
"""Option → part."""
NOTHING = Form(None, chosen=lambda name, tensor: False, other=torch.float16)
"""Of a file that is as it was."""


@pytest.fixture(scope="module")
def weights(tiny_folder):
    """The transformer's in Black Forest Labs' names, the others' in their own."""
    found = {name: weight_files.part(tiny_folder, name) for name in weight_files.FILES}
    return {**found, "transformer": original_names(found["transformer"])}


def files_of(folder, weights, form, *, contained=False):
    """A transformer and a T5 in a form, and what they mean in plain files: option → file, of each.

    contained: under the names that they have in a file of a whole model.
    """
    given, plain = {}, {}
    for option, part in PARTS.items():
        given[option], plain[option] = str(folder / f"{part}.safetensors"), str(folder / f"{part}-plain.safetensors")
        means = weight_files.write(given[option], weights[part], form, CONTAINERS[part] if contained else "")
        save_file(means, plain[option])
    return given, plain


def loaded(**given):
    return dit360.load("tiny", **{**FULL, **given})


def part_of(pipe, part):
    return getattr(pipe.engine.pipe, part)


def held(module):
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def velocity(pipe, words):
    """What one step makes of noise."""
    return pipe.sample(words, **PICTURE).tensor


def embedding(pipe):
    return pipe.encode("a castle above a meadow").positive


def packed_layers(module):
    return [each for each in module.modules() if isinstance(each, PackedLayer)]


def same(one, other):
    return one.image.tobytes() == other.image.tobytes()


@pytest.fixture(scope="module")
def words(tiny):
    return tiny.encode("a castle", max_sequence_length=16)


@pytest.fixture(scope="module")
def own(tiny_folder, words):
    """The velocity and the embedding of the weights as they were."""
    pipe = loaded()
    return velocity(pipe, words), embedding(pipe).tokens


# ---------------------------------------------------------------------------------------------------- what is computed


@pytest.fixture(scope="module", params=FORMS)
def case(request, tmp_path_factory, weights):
    """A model with a transformer and a T5 in a form, and the one with what that means."""
    form = FORMS[request.param]
    given, plain = files_of(tmp_path_factory.mktemp("form"), weights, form, contained=bool(form.marks))
    return request.param, given, loaded(**given), loaded(**plain)


def test_what_is_computed_is_what_the_numbers_mean(case, words, own):
    _, _, pipe, plain = case
    assert torch.allclose(velocity(pipe, words), velocity(plain, words), rtol=0, atol=CLOSE)
    assert torch.allclose(embedding(pipe).tokens, embedding(plain).tokens, rtol=0, atol=CLOSE)
    # And rounding is no small thing, so that the lines above compare something.
    assert (velocity(pipe, words) - own[0]).abs().max() > 100 * CLOSE
    assert (embedding(pipe).tokens - own[1]).abs().max() > 100 * CLOSE


def test_what_is_held_are_the_bytes_of_the_file(case):
    name, files, pipe, plain = case
    for option, part in PARTS.items():
        size = sum(tensor.nbytes for tensor in load_file(files[option]).values())
        module = part_of(pipe, part)
        # What is not packed is held in the precision of the rest, here four bytes where some files have two.
        others = sum(tensor.nbytes for tensor in load_file(files[option]).values() if tensor.dtype == torch.float16)
        assert held(module) == pytest.approx(size, rel=0.05, abs=others), name
        assert held(module) < 0.55 * held(part_of(plain, part))
        assert packed_layers(module)
        assert not packed_layers(part_of(plain, part))


def test_a_table_of_tokens_stays_packed_as_well(case):
    _, files, pipe, _ = case
    in_file = {key for key, tensor in load_file(files["t5"]).items() if tensor.element_size() == 1}
    tables = [each for each in packed_layers(part_of(pipe, "text_encoder_2")) if isinstance(each, PackedEmbedding)]
    assert len(tables) == sum(key.endswith(("shared.weight", "relative_attention_bias.weight")) for key in in_file)
    assert {each.num_embeddings for each in tables} in (set(), {1000, 32})


def test_what_they_weigh_is_known_before_anything_is_read(case):
    _, files, pipe, _ = case
    asked = LoadOptions(**FULL, **files)
    subject = subject_of(asked, *PLANNED, default_registry())
    quantized = chosen_setup(subject, asked).quantized
    assert set(quantized) == set(PARTS.values())
    for part in PARTS.values():
        weighed = subject.shapes.weights(part, torch.float32, quantized[part]).total
        assert weighed == pytest.approx(held(part_of(pipe, part)), rel=0.1)
    whole = sum(held(part_of(pipe, part)) for part in weight_files.FILES)
    assert [phase.weights for phase in pipe.predict(width=64).phases] == 4 * [pytest.approx(whole, rel=0.1)]


def test_what_became_of_the_parts_is_told(case):
    name, files, pipe, _ = case
    told = {part.part: part for part in pipe.state.quantized}
    assert set(told) == set(PARTS.values())
    for part in PARTS.values():
        kernels = {each.form for each in packed_layers(part_of(pipe, part))}
        assert set(told[part].kernels) == kernels
        form = name.partition(",")[0].partition(" without")[0].partition(" by")[0].partition(" told")[0]
        assert all(kernel.startswith(form) for kernel in kernels)
    assert pipe.plan.warnings() == []
    assert any(files["transformer"] in line for line in pipe.plan.sentences())


def test_the_reference_matrix_is_the_one_of_the_format():
    """Symmetric and orthogonal, every row with the same sum: what "regular" says, and Sylvester's is not."""
    for order in (4, 16, 64, 256):
        h = hadamard(order)
        assert np.array_equal(h, h.T)
        assert np.allclose(h @ h, np.eye(order))
        assert np.allclose(h.sum(1), 1)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_reference_table_of_fp8_is_pytorchs(dtype):
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    number = every.double().numpy()
    assert np.array_equal(weight_files.meant(every)[np.isfinite(number)], number[np.isfinite(number)])


# ------------------------------------------------------------------------------------------------------------- layers


def layer_of(tmp_path, form, rows=24, columns=64):
    """What the format reads of one matrix in a form, and what that means."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    means = weight_files.write(tmp_path / "one.safetensors", {"x.weight": weight}, form)
    return open_file(tmp_path / "one.safetensors").read("x.weight"), means["x.weight"]


@pytest.mark.parametrize("at_once", [1, 200, 2**21])
@pytest.mark.parametrize("form", ["scaled fp8", "int8 turned"])
def test_a_layer_computes_by_pieces_what_it_computes_at_once(form, at_once, tmp_path, monkeypatch):
    """A large matrix is turned back some rows at a time."""
    monkeypatch.setitem(packed.AT_ONCE, "cpu", at_once)
    found, means = layer_of(tmp_path, FORMS[form])
    bias, x = torch.randn(24), torch.randn(2, 5, 64)
    layer = PackedLinear(found, bias)
    assert torch.allclose(layer(x), x @ means.T + bias, atol=CLOSE)
    assert torch.allclose(PackedLinear(found, None)(x), x @ means.T, atol=CLOSE)
    # In fewer bits the input decides, and of a layer that is moved or turned into another dtype the bits stay.
    there = layer.to(torch.bfloat16)
    assert there(x.bfloat16()).dtype == torch.bfloat16
    for one, other in zip(there._stored(), found.tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.view(torch.uint8), other.contiguous().view(torch.uint8))


def test_a_table_gives_the_rows_that_are_asked_for(tmp_path):
    found, means = layer_of(tmp_path, FORMS["int8 turned"])
    ids = torch.tensor([[3, 3, 0], [23, 7, 3]])
    table = PackedEmbedding(found, torch.float32)
    assert torch.allclose(table(ids), means[ids], atol=CLOSE)
    assert PackedEmbedding(found, torch.float16)(ids).dtype == torch.float16


def test_scales_of_what_is_not_there_are_strange_and_those_of_numbers_in_full_are_theirs(tmp_path):
    tensors = {"x.weight": torch.ones(3, 4), "x.scale_weight": torch.full((3, 1), 2.0), "y.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "one.safetensors")
    found = open_file(tmp_path / "one.safetensors")
    assert set(found.tensors) == {"x.weight", "y.weight"}
    assert torch.equal(found.read("x.weight"), torch.full((3, 4), 2.0))
    del tensors["x.weight"]
    save_file(tensors, tmp_path / "two.safetensors")
    assert set(open_file(tmp_path / "two.safetensors").tensors) == {"x.scale_weight", "y.weight"}


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("names", ["diffusers", "Black Forest Labs"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_is_found_under_its_names(names, prefix, tmp_path, tiny_folder, weights, words, own):
    tensors = weights["transformer"]
    if names == "diffusers":
        tensors = weight_files.part(tiny_folder, "transformer")
    file = tmp_path / "given.safetensors"
    weight_files.write(file, tensors, NOTHING, prefix)
    pipe = loaded(transformer=str(file))
    assert torch.allclose(velocity(pipe, words), own[0], rtol=0, atol=1e-6)
    assert pipe.state.quantized == ()


def whole_file(folder, weights, form):
    """A file of a whole model as ComfyUI's, and what it means: option → plain file."""
    every, header, plain = {}, {}, {}
    for option, part in {**PARTS, "clip": "text_encoder", "vae": "vae"}.items():
        found, told, means = weight_files.stored(weights[part], form, CONTAINERS[part])
        plain[option] = str(folder / f"{part}-plain.safetensors")
        save_file(means, plain[option])
        every |= found
        header |= told or {}
    save_file(every, folder / "whole.safetensors", metadata=header)
    return str(folder / "whole.safetensors"), plain


@pytest.mark.parametrize("name", ["plain", "fp8", "scaled fp8", "int8 turned"])
def test_one_file_of_a_whole_model_is_given_to_every_option(name, tmp_path, weights, words):
    """The autoencoder and CLIP are turned back when they are read: they are small."""
    form = NOTHING if name == "plain" else attrs.evolve(FORMS[name], chosen=weight_files.of_layers)
    whole, plain = whole_file(tmp_path, weights, form)
    pipe, right = loaded(**dict.fromkeys(plain, whole)), loaded(**plain)
    assert torch.allclose(velocity(pipe, words), velocity(right, words), rtol=0, atol=CLOSE)
    found, wanted = embedding(pipe), embedding(right)
    assert torch.allclose(found.tokens, wanted.tokens, rtol=0, atol=CLOSE)
    assert torch.allclose(found.pooled, wanted.pooled, rtol=0, atol=CLOSE)
    latents = right.sample(words, **PICTURE)
    assert same(pipe.decode(latents), right.decode(latents))
    assert {part.part for part in pipe.state.quantized} == (set() if name == "plain" else set(PARTS.values()))
    # Of the all-in-one only the part's own bytes are held.
    assert held(part_of(pipe, "text_encoder_2")) <= held(part_of(right, "text_encoder_2"))


# ------------------------------------------------------------------------------------------ what else is done with them


@pytest.fixture(scope="module")
def fp8(tmp_path_factory, weights):
    """Files in scaled fp8, and what they mean."""
    return files_of(tmp_path_factory.mktemp("fp8"), weights, FORMS["scaled fp8"])


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """A LoRA of the transformer, and one of the transformer, CLIP and T5."""
    return [str(write_lora(tmp_path_factory.mktemp("lora"), scheme)[0]) for scheme in ("PEFT", "diffusers")]


@pytest.mark.parametrize("number", [0, 1], ids=["of the transformer", "of all parts"])
def test_a_lora_stays_beside_packed_weights_and_does_what_it_does_in_them(number, fp8, loras, words):
    given, plain = fp8
    asked = {"lora": loras[number], "lora_strength": 0.7}
    pipe, right, bare = loaded(**given, **asked), loaded(**plain, **asked), loaded(**given)
    assert pipe.plan.lora_mode == "adapter"
    assert right.plan.lora_mode == "fuse"
    assert any("LoRAs stay beside the weights" in note for note in pipe.plan.notes)
    assert len(packed_layers(part_of(pipe, "transformer"))) == len(packed_layers(part_of(bare, "transformer"))) > 30
    assert torch.allclose(velocity(pipe, words), velocity(right, words), rtol=0, atol=CLOSE)
    assert torch.allclose(embedding(pipe).tokens, embedding(right).tokens, rtol=0, atol=CLOSE)
    assert (velocity(pipe, words) - velocity(bare, words)).abs().max() > 100 * CLOSE
    assert ((embedding(pipe).tokens - embedding(bare).tokens).abs().max() > 100 * CLOSE) == bool(number)


def test_a_lora_that_is_added_later_does_the_same_and_goes_again(fp8, loras, words):
    given, plain = fp8
    pipe, right = loaded(**given), loaded(**plain, lora=loras[0], lora_strength=0.7)
    bare = velocity(pipe, words)
    pipe.set_loras([(loras[0], 0.7)])
    assert torch.allclose(velocity(pipe, words), velocity(right, words), rtol=0, atol=CLOSE)
    pipe.set_loras([])
    assert torch.equal(velocity(pipe, words), bare)


def test_a_lora_of_a_packed_t5_beside_a_plain_transformer_is_not_lost(fp8, loras):
    given, plain = fp8
    pipe, right = loaded(t5=given["t5"], lora=loras[1]), loaded(t5=plain["t5"], lora=loras[1])
    assert torch.allclose(embedding(pipe).tokens, embedding(right).tokens, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("parts", ["transformer", "both"])
def test_what_is_to_be_quantized_anew_is_made_of_the_file(parts, fp8, words):
    given, plain = fp8
    options = {"quantization_mode": "int8", "quantization_parts": parts}
    pipe, right = loaded(**given, **options), loaded(**plain, **options)
    assert torch.equal(velocity(pipe, words), velocity(right, words))
    assert torch.allclose(embedding(pipe).tokens, embedding(right).tokens, rtol=0, atol=CLOSE)
    assert packed_layers(part_of(pipe, "transformer")) == []
    assert bool(packed_layers(part_of(pipe, "text_encoder_2"))) is (parts == "transformer")
    kernels = {part.part: set(part.kernels) for part in pipe.state.quantized}
    assert all("Int8" in kernel for kernel in kernels["transformer"])
    assert kernels["text_encoder_2"] == ({"scaled fp8"} if parts == "transformer" else {"DynamicInt8Linear"})


@pytest.mark.parametrize("where", [{"evict": "all"}, {"evict": "text"}, {"offload": "disk"}], ids=str)
def test_where_weights_rest_does_not_change_the_picture(where, fp8):
    asked = {"prompt": "a castle", **PICTURE}
    right, pipe = loaded(**fp8[0]).generate(**asked), loaded(**fp8[0], **where)
    first = pipe.generate(**asked)
    assert same(first, right)
    assert same(pipe.generate(**asked), right)
    assert {part.part for part in pipe.state.quantized} == set(PARTS.values())


@pytest.mark.parametrize("parts", ["transformer", "text", "both"])
def test_a_model_with_packed_parts_can_be_stored_quantized(parts, fp8, tmp_path, words):
    """What is not quantized is stored in full, since a folder has no other form for it."""
    given = {**fp8[0], "quantization_mode": "int8", "quantization_parts": parts}
    state = dit360.quantize("tiny", tmp_path / "stored", precision="fp32", **given)
    names = {"transformer": {"transformer"}, "text": {"text_encoder_2"}, "both": set(PARTS.values())}[parts]
    assert {part.part for part in state.quantized} == names
    again, right = dit360.load(str(tmp_path / "stored"), **FULL), loaded(**given)
    assert torch.allclose(velocity(again, words), velocity(right, words), rtol=0, atol=CLOSE)
    assert torch.allclose(embedding(again).tokens, embedding(right).tokens, rtol=0, atol=CLOSE)
    told = json.loads((tmp_path / "stored" / "dit360.json").read_text())
    assert {option: told[option] for option in PARTS} == fp8[0]
    assert not list((tmp_path / "stored").rglob("weights_from.json"))


# --------------------------------------------------------------------------------------------------- what is refused

QKV = "double_blocks.0.img_attn.qkv"


def mark(**told):
    return {f"{QKV}.comfy_quant": as_tensor(json.dumps(told))}


def turned_by(group):
    return mark(format="int8_tensorwise", convrot=True, convrot_groupsize=group)


INSTEAD = "dit360 does not read that; take its fp8 or GGUF file instead, or the original"
REFUSED = {
    # what is other in an int8 file of the transformer, None: it lacks that; and the sentence
    "scales of other rows": ({f"{QKV}.weight_scale": torch.ones(7)}, r"has scales .* of the shape \[7\] in F32, where"),
    "scales of columns": ({f"{QKV}.weight_scale": torch.ones(1, 192)}, r"the shape \[1, 192\] in F32, where one for"),
    "scales of blocks": ({f"{QKV}.weight_scale": torch.ones(576, 2)}, r"of the shape \[576, 2\] in F32, where one for"),
    "no scales": ({f"{QKV}.weight_scale": torch.ones(0)}, r"of the shape \[0\] in F32, where one for all or one for"),
    "scales that are whole numbers": (
        {f"{QKV}.weight_scale": torch.ones(576, 1, dtype=torch.int32)}, r"of the shape \[576, 1\] in I32, where one for"
    ),
    "scales that are not a number": (
        {f"{QKV}.weight_scale": torch.full((576, 1), float("nan"))}, r"has scales of .*qkv\.weight that are not finite"
    ),
    "infinite scales": ({f"{QKV}.weight_scale": torch.tensor(float("inf"))}, "has scales of .* that are not finite"),
    "a lost scale": (
        {f"{QKV}.weight_scale": None},
        r"says that .*qkv\.weight is stored as int8_tensorwise, and holds I8 of the shape \[576, 192\] without a scale",
    ),
    "a lost scale and a lost mark": (
        {f"{QKV}.weight_scale": None, f"{QKV}.comfy_quant": None}, "holds 1 tensors of I8 .*, which mean nothing"
    ),
    "another type than the mark's": (
        {f"{QKV}.weight": torch.ones(576, 192, dtype=torch.int16)}, "stored as int8_tensorwise, and holds I16 of the"
    ),
    "fp8 that was turned": (
        {f"{QKV}.weight": torch.ones(576, 192).to(E4M3), **turned_by(64)}, "as int8_tensorwise, and holds F8_E4M3 of"
    ),
    "nvfp4": (
        {f"{QKV}.weight": torch.ones(576, 96, dtype=torch.uint8), f"{QKV}.weight_scale": torch.ones(576, 12).to(E4M3),
         f"{QKV}.weight_scale_2": torch.ones(()), **mark(format="nvfp4")},
        f"is quantized as nvfp4, in pairs of four bits .*, and {INSTEAD}",
    ),
    "nvfp4 with the second scale elsewhere": (
        {f"{QKV}.weight": torch.ones(576, 96, dtype=torch.uint8), f"{QKV}.weight_scale": torch.ones(576, 12).to(E4M3),
         **mark(format="nvfp4")}, rf"is quantized as 'nvfp4' \({QKV}.weight\), and {INSTEAD}",
    ),
    "mxfp8": (
        {f"{QKV}.weight": torch.ones(576, 192).to(E4M3), f"{QKV}.weight_scale": torch.ones(576, 6, dtype=torch.uint8),
         **mark(format="mxfp8")}, rf"is quantized as 'mxfp8' \({QKV}.weight\), and {INSTEAD}",
    ),
    "mxfp8 by its type": (
        {f"{QKV}.weight_scale": torch.ones(576, 6, dtype=torch.uint8).view(torch.float8_e8m0fnu)},
        f"is quantized as mxfp8, with a shared exponent .*, and {INSTEAD}",
    ),
    "a form to come": (mark(format="asym_w4a8_int8"), f"is quantized as 'asym_w4a8_int8' .*, and {INSTEAD}"),
    "a form of two lines": (mark(format="a\nb"), r"is quantized as 'a\\nb' .*, and dit360 does not read"),
    "a form that is a list": (mark(format=["int8"]), r"is quantized as \['int8'\] .*, and dit360 does not read"),
    "a group that is no power of 4": (turned_by(128), "turned in groups of 128 columns, which cannot be of 192"),
    "a group that does not fit": (turned_by(256), "turned in groups of 256 columns, which cannot be of 192"),
    "a group that is none": (turned_by([64]), r"turned in groups of \[64\] columns, which cannot be of 192"),
    "a group of 30 digits": (turned_by(10**30), r"turned in groups of 1000000000\d* columns, which cannot be of 192"),
    "a mark that is no JSON": ({f"{QKV}.comfy_quant": as_tensor("{{")}, r"has a mark .* that cannot be read \(Expect"),
    "a mark that is a list": ({f"{QKV}.comfy_quant": as_tensor("[1]")}, r"that cannot be read \(no object\)"),
    "a mark without end": ({f"{QKV}.comfy_quant": torch.ones(5000, dtype=torch.uint8)}, "a mark .* that is no text"),
    "a mark of numbers": ({f"{QKV}.comfy_quant": torch.ones(5)}, "has a mark .* that is no text; download it again"),
    "Nunchaku": (
        {f"transformer_blocks.0.qkv_proj.{name}": torch.ones(3) for name in ("qweight", "wscales")},
        rf"is quantized by Nunchaku \(SVDQuant\), which computes with kernels of its own .*, and {INSTEAD}",
    ),
    "bitsandbytes": ({f"{QKV}.weight.absmax": torch.ones(3)}, f"is quantized by bitsandbytes .*, and {INSTEAD}"),
    "GPTQ": ({f"{QKV}.qzeros": torch.ones(3, dtype=torch.int32)}, "is quantized in the manner of GPTQ or AWQ"),
    "a missing matrix": (
        {"single_blocks.2.linear2.weight": None}, r"lacks single_transformer_blocks\.2\.proj_out\.weight, so it is no"
    ),
    "a missing piece of a whole": (
        {"single_blocks.1.linear1.bias": None}, r"lacks single_transformer_blocks\.1\.\w+\.?\w*\.bias, so it is no"
    ),
    "a matrix that lost its numbers": ({f"{QKV}.weight": None}, r"lacks transformer_blocks\.0\.attn\.to_q\.weight, so"),
    "something more": (
        {"double_blocks.0.img_attn.extra.weight": torch.ones(2)}, "holds 1 tensors that this model's transformer has no"
    ),
    "a name of two lines": ({"x\ny": torch.ones(2)}, r"has a tensor whose name cannot be shown \('x\\ny'\); download"),
    "a name without end": ({"x" * 600: torch.ones(2)}, r"has a tensor whose name cannot be shown \('x{70,80}\); down"),
    "fewer rows of a whole": (
        {f"{QKV}.weight": torch.ones(575, 192)}, "in F32, where one for all or one for each of 575 rows belongs"
    ),
    "numbers that are complex": (
        {f"{QKV}.bias": torch.ones(576, dtype=torch.complex64)}, "holds 1 tensors of C64 .*, which mean nothing"
    ),
}  # fmt: skip
CENTRAL = {
    "no JSON": ("{", r"says in _quantization_metadata what cannot be read \(Expecting"),
    "a list": ("[]", "says in _quantization_metadata what cannot be read"),
    "layers that are a number": ('{"layers": 5}', "says in _quantization_metadata what cannot be read"),
    "a layer that is null": ('{"layers": {"x": null}}', "says in _quantization_metadata what cannot be read"),
    "lists in one another": ("[" * 100_000, "says in _quantization_metadata what cannot be read"),
    "nvfp4": (json.dumps({"layers": {QKV: {"format": "nvfp4"}}}), rf"is quantized as 'nvfp4' \({QKV}.weight\), and"),
    "a group that does not fit": (
        json.dumps({"layers": {QKV: {"format": "int8_tensorwise", "convrot": True}}}), "turned in groups of 256 columns"
    ),
}  # fmt: skip


def told(file):
    """What is said of a transformer that cannot be used: one sentence."""
    with pytest.raises(dit360.ModelError) as raised:
        loaded(transformer=str(file))
    sentence = str(raised.value)
    assert re.fullmatch(r"[^\n]+\.", sentence)
    assert sentence.isprintable()
    assert sentence.startswith(str(file))
    return sentence


@pytest.fixture(scope="module")
def in_int8(weights):
    """The tensors of a file in int8 with marks."""
    return weight_files.stored(weights["transformer"], FORMS["int8"])[0]


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(change, sentence, in_int8, tmp_path):
    tensors = {name: tensor for name, tensor in {**in_int8, **change}.items() if tensor is not None}
    save_file(tensors, tmp_path / "given.safetensors")
    assert re.search(sentence, told(tmp_path / "given.safetensors"))


@pytest.mark.parametrize(("said", "sentence"), CENTRAL.values(), ids=CENTRAL)
def test_marks_in_the_header_that_cannot_be_are_refused_in_one_sentence(said, sentence, weights, tmp_path):
    tensors = weight_files.stored(weights["transformer"], FORMS["int8 without marks"])[0]
    save_file(tensors, tmp_path / "given.safetensors", metadata={"_quantization_metadata": said})
    assert re.search(sentence, told(tmp_path / "given.safetensors"))


def test_a_transformer_that_takes_other_channels_is_refused_before_it_paints(in_int8, tmp_path):
    """As FLUX.1-Depth and -Canny do."""
    save_file({**in_int8, "img_in.weight": torch.ones(192, 256)}, tmp_path / "given.safetensors")
    assert "256" in told(tmp_path / "given.safetensors")
