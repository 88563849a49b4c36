"""Single files that ``quantize`` writes: their names, what their numbers mean, and what they tell of themselves."""

import json
import shutil
from pathlib import Path

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
from command_line import dit360 as run_in
from dit360_core.errors import Dit360Error, InputError, ModelError
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.inspection import inspected
from dit360_core.models.weights.forms.fp8_int8 import eight_bits
from dit360_core.models.weights.forms.packed import Packed
from dit360_core.pipeline import writing
from dit360_core.plugins.builtin import formats
from dit360_core.plugins.registry import Registry, default_registry
from invented_plugins import installed, offering
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from weight_files import E4M3, hadamard, meant, original_names, part

FULL = {"precision": "fp32", "device": "cpu"}
PICTURE = {"prompt": "a castle above a meadow", "width": 128, "steps": 2, "seed": 1}
MODES = ("fp8", "int8", "int8-convrot")
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_v", "single_transformer_blocks.2.proj_mlp")


def write_lora(file, *, layers=LAYERS, scale=0.4):
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for name in layers:
        outputs = 768 if name.endswith("mlp") else 192
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, 192, generator=draw) * scale
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, 4, generator=draw) * scale
    save_file(tensors, file)
    return str(file)


def written(file, mode, model="tiny", **options):
    return dit360.quantize(model, file, quantization_mode=mode, **options)


def picture(**options):
    return np.asarray(dit360.load("tiny", **FULL, **options).generate(**PICTURE).image).astype(float)


def psnr(one, other):
    return 10 * np.log10(255**2 / max(np.square(one - other).mean(), 1e-9))


@pytest.fixture(scope="module")
def plain():
    return picture()


@pytest.fixture(scope="module")
def own(tiny_folder):
    """The embedded transformer in Black Forest Labs' names, by a table of the tests' own."""
    return original_names(part(tiny_folder, "transformer"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Form → the embedded transformer in it, and what was told of that."""
    place = tmp_path_factory.mktemp("written")
    return {mode: (place / f"{mode}.safetensors", written(place / f"{mode}.safetensors", mode)) for mode in MODES}


# --------------------------------------------------------------------------------------------------------------- names


def test_a_file_in_full_has_every_tensor_under_its_makers_name(tmp_path, own):
    written(tmp_path / "full.safetensors", "none", precision="fp32")
    found = load_file(tmp_path / "full.safetensors")
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_a_t5_is_called_as_everywhere_and_its_table_is_written_once(tmp_path, tiny_folder):
    written(tmp_path / "t5.safetensors", "none", quantization_parts="text", precision="fp32")
    found, right = load_file(tmp_path / "t5.safetensors"), part(tiny_folder, "text_encoder_2")
    assert set(found) == set(right) - {"encoder.embed_tokens.weight"}
    assert all(torch.equal(found[name], right[name]) for name in found)


def test_what_is_written_in_full_is_as_the_model_has_it_unless_a_precision_is_named(tmp_path, tiny_folder):
    stored = {tensor.dtype for tensor in load_file(tiny_folder / "transformer" / FILE).values()}
    written(tmp_path / "own.safetensors", "none")
    assert {tensor.dtype for tensor in load_file(tmp_path / "own.safetensors").values()} == stored
    written(tmp_path / "bf16.safetensors", "none", precision="bf16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "bf16.safetensors").values()} == {torch.bfloat16}


FILE = "diffusion_pytorch_model.safetensors"


# --------------------------------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("mode", MODES)
def test_numbers_mean_what_they_were_by_the_formats_description(mode, files, own):
    file, state = files[mode]
    stored, layers = load_file(file), {layer.name for layer in state.quantized[0].layers}
    for name, right in own.items():
        layer, found = name.removesuffix(".weight"), stored[name]
        if layer not in layers or not name.endswith(".weight"):
            assert torch.equal(found.float(), right), name
            continue
        scale = stored[f"{layer}.{'scale_weight' if mode == 'fp8' else 'weight_scale'}"].double().numpy()
        numbers = meant(found) * scale
        if mode == "fp8":
            assert (found.dtype, scale.shape) == (E4M3, ())
        else:
            mark = json.loads(bytes(stored[f"{layer}.comfy_quant"].numpy()))
            turned = {"convrot": True, "convrot_groupsize": mark.get("convrot_groupsize")}
            assert mark == {"format": "int8_tensorwise"} | (turned if mode == "int8-convrot" else {})
            if mode == "int8-convrot":
                group = mark["convrot_groupsize"]
                numbers = (numbers.reshape(len(numbers), -1, group) @ hadamard(group)).reshape(numbers.shape)
        off = np.linalg.norm(numbers - right.numpy()) / np.linalg.norm(right.numpy())
        assert off < (0.04 if mode == "fp8" else 0.013), name


@pytest.mark.parametrize("mode", MODES)
def test_a_file_paints_what_the_model_paints(mode, files, plain):
    assert psnr(picture(transformer=str(files[mode][0])), plain) > 38


def test_what_is_told_of_layers_is_so(files):
    file, state = files["int8"]
    (told,) = state.quantized
    by_header = {name.removesuffix(".weight"): tensor for name, tensor in load_file(file).items()}
    assert {layer.name for layer in told.layers} == {
        name for name, tensor in by_header.items() if tensor.dtype is torch.int8
    }
    assert "img_in" in told.left
    assert "final_layer.linear" in told.left
    assert all(0 < layer.error < 0.03 for layer in told.layers)
    assert told.given_as == "transformer"
    # The bytes of the layers, and all others.
    total = sum(layer.bytes for layer in told.layers)
    others = sum(t.nbytes for n, t in by_header.items() if n not in {layer.name for layer in told.layers})
    marks = sum(t.nbytes for n, t in by_header.items() if n.endswith(("weight_scale", "comfy_quant")))
    assert abs(file.stat().st_size - total - others + marks) < 32768  # the header


def test_comfyui_has_all_layers_of_a_scaled_file_in_fp8(files):
    stored = load_file(files["fp8"][0])
    assert stored["scaled_fp8"].shape == (2,)
    assert stored["img_in.weight"].dtype is E4M3
    assert not files["fp8"][1].quantized[0].left


def test_a_pattern_leaves_the_layer_that_it_is_a_part_of(tmp_path):
    state = written(tmp_path / "some.safetensors", "int8", quantization_skip="*.proj_mlp")
    left = state.quantized[0].left
    assert {name for name, why in left.items() if why == "asked for"} == {
        f"single_blocks.{n}.linear1" for n in range(6)
    }
    assert load_file(tmp_path / "some.safetensors")["single_blocks.0.linear1.weight"].dtype is not torch.int8


@pytest.mark.parametrize("mode", ["int8", "none"])
def test_a_file_in_fewer_bits_is_written_anew(mode, files, tmp_path, plain):
    """Turned back layer by layer; what it lost before is lost."""
    written(tmp_path / "again.safetensors", mode, transformer=str(files["fp8"][0]))
    again = picture(transformer=str(tmp_path / "again.safetensors"))
    assert psnr(again, picture(transformer=str(files["fp8"][0]))) > 45
    assert psnr(again, plain) > 38


# --------------------------------------------------------------------------------------------------------------- LoRAs


def test_a_lora_is_in_the_weights_and_the_file_tells_of_it(tmp_path, plain):
    lora = write_lora(tmp_path / "mine.safetensors")
    state = written(tmp_path / "full.safetensors", "none", lora=(lora,), lora_strength=0.5)
    (use,) = state.loras
    assert (use.modules, use.used, use.strength) == (3, 6, 0.5)
    fused = picture(lora=(lora,), lora_strength=0.5)
    assert psnr(fused, plain) < 48
    pipe = dit360.load("tiny", **FULL, transformer=str(tmp_path / "full.safetensors"))
    panorama = pipe.generate(**PICTURE)
    assert psnr(np.asarray(panorama.image).astype(float), fused) > 60
    (told,) = panorama.settings["used"]["loras_in_stored_weights"]
    assert (told["from"], told["strength"], told["mode"]) == ("mine.safetensors", 0.5, "fuse")
    assert (told["modules"], told["tensors_used"], told["tensors"]) == (3, 6, 6)
    assert any("mine.safetensors is in the stored weights" in line for line in pipe.state.sentences())


def test_a_lora_that_is_in_the_file_is_not_added_twice(tmp_path):
    lora = write_lora(tmp_path / "mine.safetensors")
    file = tmp_path / "int8.safetensors"
    written(file, "int8", lora=(lora,))
    with pytest.raises(InputError, match=r"already holds the LoRA .*mine.safetensors, which would be added twice"):
        dit360.load("tiny", transformer=str(file), lora=(lora,))
    (tmp_path / "elsewhere").mkdir()
    shutil.copyfile(lora, tmp_path / "elsewhere" / "another-name.safetensors")
    with pytest.raises(InputError, match=r"another-name.safetensors, which would be added twice"):
        dit360.load("tiny", transformer=str(file), lora=(str(tmp_path / "elsewhere" / "another-name.safetensors"),))
    other = write_lora(tmp_path / "elsewhere" / "mine.safetensors", layers=LAYERS[:1])
    pipe = dit360.load("tiny", **FULL, transformer=str(file), lora=(other,))
    assert any("comes on top of it" in note for note in pipe.state.warnings())


@pytest.mark.parametrize("mode", [*MODES, "none"])
def test_what_rounding_leaves_of_a_lora_is_measured(mode, tmp_path):
    lora = write_lora(tmp_path / "mine.safetensors", scale=0.05)
    state = written(tmp_path / "file.safetensors", mode, lora=(lora,))
    if mode == "none":
        assert state.lora_kept is None
    else:
        assert 0.9 < state.lora_kept < 1.1


def test_a_lora_that_rounding_takes_away_is_told_and_no_file_is_left(tmp_path, monkeypatch):
    """The numbers that are stored are those without it."""
    lora = write_lora(tmp_path / "mine.safetensors")
    monkeypatch.setattr(writing, "_share_kept", lambda stored, numbers, delta: 0.02)
    with pytest.raises(ModelError, match="disappears when weights are rounded"):
        written(tmp_path / "file.safetensors", "int8", lora=(lora,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors"]


def test_the_share_that_is_kept_is_that_of_what_was_added():
    draw = torch.Generator().manual_seed(0)
    weight, delta = torch.randn(600, 64, generator=draw), 0.01 * torch.randn(600, 64, generator=draw)
    for share in (0.0, 0.5, 1.0):
        stored = Packed(
            form="x", shape=(600, 64), tensors=(weight + share * delta,), decode=lambda tensors, shape: tensors[0]
        )
        assert abs(writing._share_kept(stored, weight + delta, delta) - share) < 1e-3


def test_a_lora_of_another_part_is_refused_and_one_of_both_is_told(tmp_path):
    lora = write_lora(tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match=r"mine.safetensors changes nothing of the T5, which the file is to hold"):
        written(tmp_path / "t5.safetensors", "fp8", quantization_parts="text", lora=(lora,))
    tensors = load_file(lora)
    draw = torch.Generator().manual_seed(1)
    for leaf, shape in (("A", (4, 128)), ("B", (128, 4))):
        tensors[f"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_{leaf}.weight"] = torch.randn(
            shape, generator=draw
        )
    save_file(tensors, tmp_path / "both.safetensors")
    state = written(tmp_path / "file.safetensors", "fp8", lora=(str(tmp_path / "both.safetensors"),))
    assert any("both.safetensors also changes T5, which this file does not hold" in note for note in state.warnings())


# ------------------------------------------------------------------------------------------------ what a file tells


def test_a_file_tells_how_its_model_is_run_and_names_no_folder(tmp_path, tiny_folder):
    place = tmp_path / "somebody" / "secret"
    shutil.copytree(tiny_folder, place)
    told = {"format": 1, "made_from": "x", "model": {"prompt_prefix": "This is a panorama. ", "steps": 7}}
    (place / "dit360.json").write_text(json.dumps(told))
    lora = write_lora(tmp_path / "somebody" / "mine.safetensors")
    written(tmp_path / "file.safetensors", "int8", str(place), lora=(lora,))
    with safe_open(tmp_path / "file.safetensors", framework="np") as opened:
        metadata = opened.metadata()
    assert "somebody" not in json.dumps(metadata)
    assert json.loads(metadata["dit360"])["made_from"] == "secret"
    pipe = dit360.load(str(tmp_path / "file.safetensors"), **FULL, **others(tmp_path, tiny_folder))
    assert pipe.plan.model.steps == 7
    assert pipe.plan.model.prompt_prefix == "This is a panorama. "
    assert len(pipe.plan.fused_before) == 1
    assert not any("no LoRA for panoramas" in note for note in pipe.plan.notes)


def others(place, folder):
    """Files of the other parts."""
    found = {}
    for option, name in (("vae", "vae"), ("clip", "text_encoder"), ("t5", "text_encoder_2")):
        save_file(part(folder, name), place / f"{name}.safetensors")
        found[option] = str(place / f"{name}.safetensors")
    return found


@pytest.mark.parametrize(
    "said",
    [
        '{"model": {}, "loras": [{"from": "a\\u001b[31mb"}]}',
        '{"model": {}, "loras": [{"from": "a", "strength": "many"}]}',
        '{"model": {}, "loras": [{"from": "a", "strength": NaN}]}',
        "{",
        "[]",
        '{"model": 3}',
        '{"model": {}, "loras": 3}',
        '{"model": {"steps": "many"}}',
        "[" * 100_000,
    ],
)
def test_a_header_that_tells_nonsense_is_told_in_one_sentence(said, tmp_path, own, tiny_folder):
    save_file(own, tmp_path / "odd.safetensors", metadata={"dit360": said})
    with pytest.raises(ModelError) as caught:
        dit360.load(str(tmp_path / "odd.safetensors"), **others(tmp_path, tiny_folder))
    assert "odd.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_shape_tells_of_a_model_is_told(tmp_path, tiny_folder):
    """Positions of other widths: read by its file alone, the model would be another."""
    place = tmp_path / "model"
    shutil.copytree(tiny_folder, place)
    config = json.loads((place / "transformer" / "config.json").read_text())
    config["axes_dims_rope"] = [8, 8, 16]
    (place / "transformer" / "config.json").write_text(json.dumps(config))
    state = written(tmp_path / "file.safetensors", "int8", str(place))
    assert any("does not tell axes_dims_rope of this model" in note for note in state.warnings())


def test_a_file_is_inspected_as_what_it_is(files):
    told = inspected(files["int8-convrot"][0], default_registry())
    assert (told["kind"], told["parts"][0]["family"], told["parts"][0]["fits"]) == ("weights", "FLUX.1", ["tiny"])
    assert any("int8 turned" in form for form in told["forms"])
    assert (told["made_from"], told["loras"], told["run_with"]["width"]) == ("tiny", [], 512)


def test_what_is_in_a_file_is_told_by_the_command_line(tmp_path):
    lora = write_lora(tmp_path / "mine.safetensors")
    written(tmp_path / "file.safetensors", "int8", lora=(lora,), lora_strength=0.5)
    (told,) = run_in(["inspect", "file.safetensors"], cwd=tmp_path)
    assert "the LoRA mine.safetensors, strength 0.5" in told.out
    assert "made of" in told.out


# ------------------------------------------------------------------------------------------------------ other families


@pytest.mark.parametrize("family", ["klein", "krea", "qwen"])
def test_other_families_have_their_makers_names(family, tmp_path):
    from diffusers.loaders.single_file_utils import (
        convert_flux2_transformer_checkpoint_to_diffusers,
        convert_krea2_transformer_checkpoint_to_diffusers,
    )
    from random_families import random_klein, random_krea, random_qwen

    make, back = {
        "klein": (lambda: random_klein(layers=4), convert_flux2_transformer_checkpoint_to_diffusers),
        "krea": (random_krea, convert_krea2_transformer_checkpoint_to_diffusers),
        "qwen": (random_qwen, lambda tensors: tensors),
    }[family]
    make().save_pretrained(tmp_path / "model")
    folder = tmp_path / "model" / "transformer"
    right = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    written(tmp_path / "full.safetensors", "none", str(tmp_path / "model"), precision="fp32")
    found = back(load_file(tmp_path / "full.safetensors"))
    assert found.keys() == right.keys()
    assert all(torch.equal(found[name].reshape(right[name].shape), right[name].float()) for name in right)
    # And in fewer bits it paints.
    written(tmp_path / "int8.safetensors", "int8", str(tmp_path / "model"))
    one, other = (
        np.asarray(
            dit360.load(str(tmp_path / "model"), **FULL, **given)
            .generate("a calm sea", width=64, steps=1, seed=1)
            .image
        ).astype(float)
        for given in ({}, {"transformer": str(tmp_path / "int8.safetensors")})
    )
    assert psnr(one, other) > 30
    with pytest.raises(InputError, match="cannot be written into a file, since only the layers that it needs are here"):
        written(tmp_path / "text.safetensors", "fp8", str(tmp_path / "model"), quantization_parts="text")


# ---------------------------------------------------------------------------------------------------------- bad input


def test_the_command_writes_and_tells_how_to_use_it(tmp_path):
    (told,) = run_in(["quantize", "tiny", "-o", "x.safetensors", "--mode", "INT8"], cwd=tmp_path)
    assert told.code == 0, told.err
    assert "Use it: dit360 generate PROMPT --model tiny --transformer x.safetensors" in told.out
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("x.safetensors", {"quantization_mode": "Q4_K"}, "cannot be written with .*: fp8, int8, int8-convrot, none"),
        ("x.safetensors", {"quantization_mode": "fp8", "quantization_skip": "*.proj_mlp"}, "cannot be used with fp8"),
        (".safetensors", {"quantization_mode": "int8"}, "is an ending without a name"),
        ("x.safetensors", {"quantization_mode": "int8_convro"}, "did you mean int8-convrot"),
        ("x.safetensors", {"quantization_mode": "auto"}, "A .safetensors file cannot be written with"),
        ("x.safetensors", {"quantization_mode": "int8", "lora_mode": "adapter"}, "cannot be stored"),
        ("x.safetensors", {"quantization_mode": "none", "quantization_skip": "*"}, "has no effect on a file in full"),
        (
            "x.safetensors",
            {"quantization_mode": "int8", "quantization_skip": "nothing"},
            "no layer is called 'nothing'",
        ),
        ("x.safetensors", {"quantization_mode": "int8", "offload": "model"}, "has no effect on a model that is stored"),
        ("no/x.safetensors", {"quantization_mode": "int8"}, "does not exist"),
        ("x.pt", {"quantization_mode": "int8"}, "would be a pickle"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_left(name, options, said, tmp_path):
    with pytest.raises((InputError, ModelError), match=said):
        dit360.quantize("tiny", tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(InputError, match="exists already; choose another name, or delete it"):
        written(tmp_path / "x.safetensors", "int8")
    assert (tmp_path / "x.safetensors").read_text() == "mine"


def test_a_file_whose_name_was_taken_meanwhile_is_not_lost(tmp_path, monkeypatch):
    def taken(*told):
        (tmp_path / "x.safetensors").write_text("theirs")

    with pytest.raises(Dit360Error, match=r"x.safetensors: another program .* not lost, it is .*x-2.safetensors"):
        dit360.quantize("tiny", tmp_path / "x.safetensors", quantization_mode="int8", progress=taken)
    assert (tmp_path / "x.safetensors").read_text() == "theirs"
    assert "img_in.weight" in load_file(tmp_path / "x-2.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: attrs.make_class("U", ["free"])(1000) if path else usage)
    with pytest.raises(InputError, match=r"would take .* are free there"):
        written(tmp_path / "x.safetensors", "int8")
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_too_large_for_the_precision_are_told(tmp_path, tiny_folder):
    place = tmp_path / "model"
    shutil.copytree(tiny_folder, place)
    tensors = {name: tensor.float() for name, tensor in load_file(place / "transformer" / FILE).items()}
    tensors["proj_out.weight"][0, 0] = 1e5
    save_file(tensors, place / "transformer" / FILE)
    with pytest.raises(InputError, match=r"final_layer.linear.weight has numbers that are too large for F16"):
        written(tmp_path / "x.safetensors", "none", str(place), precision="fp16")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_lora_that_is_lost_in_16_bits_is_told(tmp_path):
    lora = write_lora(tmp_path / "weak.safetensors", scale=1e-9)
    with pytest.raises(ModelError, match=r"weak.safetensors (changes no number|was fused .* changed no weight)"):
        written(tmp_path / "x.safetensors", "none", lora=(lora,), precision="fp16")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_file_tells_of_the_loras_of_its_own_part_alone(tmp_path):
    lora = write_lora(tmp_path / "mine.safetensors")
    written(tmp_path / "c.safetensors", "int8", lora=(lora,))
    written(tmp_path / "t5.safetensors", "fp8", transformer=str(tmp_path / "c.safetensors"), quantization_parts="text")
    assert loras_in(tmp_path / "t5.safetensors") == []
    written(tmp_path / "d.safetensors", "none", transformer=str(tmp_path / "c.safetensors"))
    assert [told["from"] for told in loras_in(tmp_path / "d.safetensors")] == ["mine.safetensors"]


def loras_in(file):
    with safe_open(file, framework="np") as opened:
        return json.loads(opened.metadata()["dit360"])["loras"]


def test_the_models_own_lora_is_not_added_to_a_file_that_has_it(tmp_path, tiny_folder):
    """Which is told, since it is what everybody means."""
    lora = write_lora(tmp_path / "own.safetensors")
    model = attrs.evolve(default_registry().find("model", "tiny")[0].offer, name="with-own", lora=lora)
    registry = Registry(entry_points=installed("kit", offering(model)))
    dit360.quantize("with-own", tmp_path / "x.safetensors", quantization_mode="int8", registry=registry)
    pipe = dit360.load("with-own", **FULL, transformer=str(tmp_path / "x.safetensors"), registry=registry)
    assert pipe.state.loras == ()
    assert any("already holds the model's LoRA" in note for note in pipe.state.warnings())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("odd")])
def test_what_goes_wrong_on_the_way_leaves_nothing(error, tmp_path, monkeypatch):
    class Stopping:
        def __init__(self):
            self.inner = next(iter(formats.dit360_formats())).writer()
            self.form_for, self.bytes_of = self.inner.form_for, self.inner.bytes_of

        def write(self, file, tensors, about):
            for number, stored in enumerate(self.inner.write(file, tensors, about)):
                if number == 5:
                    raise error
                yield stored

    (entry,) = (each for each in default_registry().entries("format") if each.name == "safetensors")
    wrong = attrs.evolve(entry, offer=attrs.evolve(entry.offer, writer=Stopping))
    monkeypatch.setattr("dit360_core.planning.written.form_written", lambda target, registry: wrong)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else Dit360Error
    with pytest.raises(expected):
        written(tmp_path / "x.safetensors", "int8")
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_told(tmp_path, tiny_folder):
    place = tmp_path / "model"
    shutil.copytree(tiny_folder, place)
    tensors = load_file(place / "transformer" / FILE)
    tensors["proj_out.weight"][0, 0] = torch.nan
    save_file(tensors, place / "transformer" / FILE)
    with pytest.raises(ModelError, match=r"not finite, in proj_out.weight"):
        written(tmp_path / "x.safetensors", "none", str(place))
    assert not (tmp_path / "x.safetensors").exists()


def test_a_model_that_is_stored_quantized_is_refused(tmp_path):
    dit360.quantize("tiny", tmp_path / "folder", quantization_mode="int8")
    with pytest.raises(InputError, match="is stored quantized already"):
        written(tmp_path / "x.safetensors", "fp8", str(tmp_path / "folder"))


def test_every_tensor_of_a_part_has_a_name_in_files(tiny_folder):
    names = list(part(tiny_folder, "transformer"))
    with pytest.raises(KeyError, match="strange"):
        FLUX.originals("transformer", [*names, "strange.weight"])
    assert FLUX.originals("vae", names) is None


class Faulty:
    """A writer that is right but for what those below do."""

    def __init__(self):
        self.inner = next(iter(formats.dit360_formats())).writer()
        self.form_for, self.bytes_of = self.inner.form_for, self.inner.bytes_of

    def write(self, file, tensors, about):
        yield from self.inner.write(file, tensors, about)


class TooFew(Faulty):
    def write(self, file, tensors, about):
        yield from self.inner.write(file, tensors[:-1], about)


class Ahead(Faulty):
    def write(self, file, tensors, about):
        yield from list(self.inner.write(file, tensors, about))


class Raising(Faulty):
    def __init__(self):
        raise RuntimeError("boom")


class Dividing(Faulty):
    def __init__(self):
        super().__init__()
        self.form_for = lambda form, shape: 1 / 0


class Zeroing(Faulty):
    def write(self, file, tensors, about):
        yield from self.inner.write(file, tensors, about)
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.seek(size - 4000)
            opened.write(bytes(4000))


@pytest.mark.parametrize("writer", [TooFew, Ahead, Raising, Dividing, Zeroing])
def test_a_writer_that_is_wrong_is_told_and_no_file_is_left(writer, tmp_path, monkeypatch, capfd):
    (entry,) = (each for each in default_registry().entries("format") if each.name == "safetensors")
    wrong = attrs.evolve(entry, offer=attrs.evolve(entry.offer, writer=writer))
    monkeypatch.setattr("dit360_core.planning.written.form_written", lambda target, registry: wrong)
    with pytest.raises(Dit360Error, match=r"tell (its|the) author"):
        written(tmp_path / "x.safetensors", "int8")
    assert not list(tmp_path.iterdir())
    assert "Exception ignored" not in capfd.readouterr().err


def test_zeros_are_stored_as_zeros(tmp_path):
    writer = next(iter(formats.dit360_formats())).writer()
    from dit360_core.models.running import About, Outgoing

    about = About(family="flux", part="transformer", form="fp8", metadata={})
    for form in MODES:
        one = Outgoing(name="x.weight", shape=(4, 64), form=form, read=lambda: torch.zeros(4, 64))
        (stored,) = writer.write(Path(tmp_path / form), [one], about)
        assert not stored.dense(torch.float32).any()
        assert stored.decode is not eight_bits or stored.tensors[1].isfinite().all()
