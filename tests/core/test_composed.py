"""A model with another autoencoder or T5 than its own: from a folder or a file, under either project's names."""

import gc
import json
import os
import shutil

import dit360_core as dit360
import pytest
import torch
from command_line import python
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from dit360_core.models import composed
from dit360_core.models.flux.autoencoder_names import original_name
from dit360_core.models.flux.parts import REPLACEABLE
from dit360_core.models.weights.files import ModelFiles
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.planning.forecast import subject_of
from dit360_core.planning.speed import ASSUMED
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine
from safetensors.torch import load_file, save_file

PICTURE = {"prompt": "a castle", "width": 64, "steps": 1, "seed": 1}
PLANNED = (SampleOptions(prompt="any"), DecodeOptions())
FILES = {"vae": "diffusion_pytorch_model.safetensors", "text_encoder_2": "model.safetensors"}


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """The folder for temporary files, of each test its own."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def plain(tiny):
    return tiny.generate(**PICTURE)


@pytest.fixture(scope="module")
def weights(tiny_folder):
    return {part: load_file(tiny_folder / part / file) for part, file in FILES.items()}


def in_their_names(tensors, prefix=""):
    """An autoencoder's tensors as in Black Forest Labs' files."""
    exact = {"mid_block.attentions.0": "mid.attn_1", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
             "group_norm": "norm", "to_out.0": "proj_out", "to_q": "q", "to_k": "k", "to_v": "v",
             "downsamplers.0": "downsample", "upsamplers.0": "upsample",
             "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "resnets": "block",
             **{f"down_blocks.{i}": f"down.{i}" for i in range(4)},
             **{f"up_blocks.{i}": f"up.{3 - i}" for i in range(4)}}  # fmt: skip
    found = {}
    for name, tensor in tensors.items():
        in_attention = ".attentions." in name and tensor.ndim == 2
        for ours, theirs in exact.items():
            name = name.replace(ours, theirs)
        found[prefix + name] = tensor[:, :, None, None].contiguous() if in_attention else tensor
    return found


def same(one, other):
    return one.image.tobytes() == other.image.tobytes()


def file_of(tmp_path, tensors, name="given.safetensors", **more):
    save_file(tensors, tmp_path / name, **more)
    return str(tmp_path / name)


# --------------------------------------------------------------------------------------------- what is given is used


def test_the_names_of_the_files_below_are_those_that_diffusers_knows(tiny_folder, weights):
    config = json.loads((tiny_folder / "vae" / "config.json").read_text())
    back = convert_ldm_vae_checkpoint(in_their_names(weights["vae"]), config)
    assert back.keys() == weights["vae"].keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights["vae"].items())
    theirs = {original_name(name, 4) for name in weights["vae"]}
    assert theirs == in_their_names(weights["vae"]).keys()


@pytest.mark.parametrize("kind", ["folder", "model", "file", "theirs", "first_stage_model.", "vae."])
def test_the_models_own_autoencoder_paints_the_models_own_picture(kind, tmp_path, tiny_folder, weights, plain):
    if kind in ("folder", "model"):
        given = str(tiny_folder / "vae" if kind == "folder" else tiny_folder)
    else:
        prefix = kind if kind.endswith(".") else ""
        tensors = weights["vae"] if kind == "file" else in_their_names(weights["vae"], prefix)
        # As in a file of a whole model, whose other tensors are not looked at.
        more = {"model.diffusion_model.scale": torch.ones(3, dtype=torch.int8)} if prefix else {}
        given = file_of(tmp_path, {**tensors, **more})
    pipe = dit360.load("tiny", vae=given)
    panorama = pipe.generate(**PICTURE)
    assert same(panorama, plain)
    assert panorama.settings["used"]["vae"] == panorama.settings["requested"]["vae"] == given
    assert f"vae: {given}, instead of the model's own" in pipe.plan.sentences()
    assert pipe.plan.warnings() == []


@pytest.mark.parametrize("kind", ["folder", "file", "embedding by its other name", "the decoder beside it"])
def test_the_models_own_t5_paints_the_models_own_picture(kind, tmp_path, tiny_folder, weights, plain):
    tensors = dict(weights["text_encoder_2"])
    if kind == "embedding by its other name":
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    if kind == "the decoder beside it":
        tensors["decoder.final_layer_norm.weight"] = torch.zeros(128)
    given = str(tiny_folder / "text_encoder_2") if kind == "folder" else file_of(tmp_path, tensors)
    panorama = dit360.load("tiny", t5=given).generate(**PICTURE)
    assert same(panorama, plain)
    assert panorama.settings["used"]["t5"] == given
    assert "vae" not in panorama.settings["used"]


def test_another_autoencoder_and_another_t5_change_the_picture(tmp_path, weights, plain):
    vae, t5 = dict(weights["vae"]), dict(weights["text_encoder_2"])
    vae["decoder.conv_out.bias"] = vae["decoder.conv_out.bias"] + 0.5
    t5["shared.weight"] = t5["shared.weight"].flip(0).contiguous()
    files = {"vae": file_of(tmp_path, in_their_names(vae), "ae.sft"), "t5": file_of(tmp_path, t5)}
    only_vae, both = (dit360.load("tiny", **given).generate(**PICTURE) for given in ({"vae": files["vae"]}, files))
    assert len({picture.image.tobytes() for picture in (plain, only_vae, both)}) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_file_in_fewer_bits_is_read_as_its_rounded_numbers(dtype, tmp_path, weights):
    """A T5 in eight bits stays in them, and makes of a prompt what its numbers in full make."""
    rounded = {
        part: {name: (1.01 * tensor.float()).to(dtype) for name, tensor in tensors.items()}
        for part, tensors in weights.items()
    }
    found, read = [], []
    for kept in (dtype, torch.float32):
        files = {
            part: file_of(tmp_path, {n: t.to(kept) for n, t in tensors.items()}, f"{kept}-{part}.safetensors")
            for part, tensors in rounded.items()
        }
        pipe = dit360.load("tiny", precision="fp32", vae=files["vae"], t5=files["text_encoder_2"])
        found.append(list(pipe.engine.pipe.vae.parameters()))
        read.append(pipe.encode("a castle").positive.tokens)
        packed = [part.part for part in pipe.state.quantized]
        assert packed == (["text_encoder_2"] if kept.itemsize == 1 else [])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert {tensor.dtype for tensor in found[0]} == {torch.float32}
    assert torch.allclose(*read, atol=1e-5)


def test_a_t5_of_a_file_is_quantized_while_it_is_loaded_and_read_again_after_eviction(tmp_path, weights):
    options = {"quantization_mode": "int8", "device": "cpu"}
    given = file_of(tmp_path, weights["text_encoder_2"])
    pipe = dit360.load("tiny", t5=given, vae=file_of(tmp_path, in_their_names(weights["vae"]), "ae.safetensors"),
                       evict="all", **options)  # fmt: skip
    panorama = pipe.generate(**PICTURE)
    assert same(panorama, dit360.load("tiny", **options).generate(**PICTURE))
    assert {part.part for part in pipe.state.quantized} == {"transformer", "text_encoder_2"}


def test_parts_that_are_stored_quantized_come_and_go(tmp_path, tiny_folder, weights, plain):
    """quantize writes the parts that were given; a plain T5 takes a stored one's place, and the other way round."""
    vae = dict(weights["vae"])
    vae["decoder.conv_out.bias"] = vae["decoder.conv_out.bias"] + 0.5
    own = file_of(tmp_path, weights["text_encoder_2"])
    stored = tmp_path / "stored"
    plan = dit360.quantize("tiny", stored, quantization_mode="int8", quantization_parts="t5", t5=own,
                           vae=file_of(tmp_path, in_their_names(vae), "ae.safetensors"), precision="fp32")  # fmt: skip
    assert {part.part for part in plan.quantized} == {"text_encoder_2"}
    assert not any(path.is_symlink() for path in stored.rglob("*"))
    assert json.loads((stored / "dit360.json").read_text())["t5"] == own
    assert torch.equal(load_file(stored / "vae" / FILES["vae"])["decoder.conv_out.bias"], vae["decoder.conv_out.bias"])

    again = dit360.load(str(stored), t5=own, vae=str(tiny_folder), precision="fp32")
    assert again.state.quantized == ()
    assert same(again.generate(**PICTURE), plain)
    of_stored = dit360.load("tiny", t5=str(stored), precision="fp32")
    assert [part.part for part in of_stored.state.quantized] == ["text_encoder_2"]
    with pytest.raises(dit360.InputError, match="stored is stored quantized already; give the original"):
        dit360.quantize("tiny", tmp_path / "again", quantization_mode="int8", t5=str(stored))


def test_what_is_given_is_planned_for_and_budgeted(tmp_path, weights, monkeypatch, temporary):
    monkeypatch.setattr("dit360_core.planning.speed.measure", lambda *_: ASSUMED)
    deep = str(random_t5(tmp_path / "deep", num_layers=12))
    vae = file_of(tmp_path, in_their_names(weights["vae"]))
    asked = (*PLANNED, default_registry(), Machine())
    own, other = (subject_of(LoadOptions(**given), *asked) for given in ({}, {"t5": deep, "vae": vae}))
    assert not list(temporary.glob(f"*/vae/{FILES['vae']}"))  # nothing is written for a plan
    assert own.shapes.vae(torch.float32).config.scaling_factor == other.shapes.vae(torch.float32).config.scaling_factor
    assert other.shapes.weights_of_layer("text_encoder_2", "encoder.block.11.layer.1.DenseReluDense.wo") == 16 * 128
    prepared = prepare(LoadOptions(t5=deep, vram="64", device="cpu"), registry=default_registry())
    del other
    gc.collect()
    assert list(temporary.iterdir()) == [prepared.folder]


def random_t5(folder, **changes):
    from transformers import T5Config, T5EncoderModel

    wanted = {"d_model": 128, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1, "vocab_size": 1000}
    T5EncoderModel(T5Config(**{**wanted, **changes})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_of_a_repository_is_fetched_without_the_rest_of_it(whole, tiny_folder, monkeypatch, plain):
    asked = []

    def fetch(name, patterns, *, ignore=None):
        asked.append((name, patterns, ignore))
        return tiny_folder if whole else tiny_folder / "vae"

    monkeypatch.setattr(composed, "fetch", fetch)
    assert same(dit360.load("tiny", vae="somebody/vae").generate(**PICTURE), plain)
    of_folders = ("somebody/vae", ["config.json", "vae/*"], None)
    alone = ("somebody/vae", ["config.json", "*.safetensors", "*.safetensors.index.json"], ["*/*"])
    assert asked == ([of_folders] if whole else [of_folders, alone])
    subject_of(LoadOptions(vae="somebody/vae"), *PLANNED, default_registry(), Machine())
    assert asked[-1] == ("somebody/vae", ["config.json", "vae/config.json"], None)


def test_an_autoencoder_that_scales_its_latents_otherwise_is_told(tmp_path, tiny_folder):
    other = changed(shutil.copytree(tiny_folder / "vae", tmp_path / "vae"), scaling_factor=1.5305)
    assert any("has the scaling_factor 1.5305" in note for note in dit360.load("tiny", vae=str(other)).plan.warnings())


def changed(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


# ------------------------------------------------------------------------------------------------- what is refused


VAE_FOLDERS = {
    "another class": ({"_class_name": "AutoencoderTiny"}, "describes AutoencoderTiny, and the vae of a FLUX"),
    "other channels": ({"latent_channels": 4}, "makes latents of 4 channels, and this model's transformer takes 32"),
    "another size": (
        {"block_out_channels": [16] * 3, "down_block_types": ["DownEncoderBlock2D"] * 3,
         "up_block_types": ["UpDecoderBlock2D"] * 3},
        "makes latents 4 times smaller than the picture",
    ),
    "a width of which nothing is told": (
        {"block_out_channels": [16, 32, 64]}, "down_block_types has 4 entries and block_out_channels 3"
    ),
    "nonsense": ({"latent_channels": "many"}, "says that latent_channels is 'many', which cannot be"),
    "other weights": ({"block_out_channels": [16, 32, 64, 128]}, r"are \[24, 3, 3, 3\], and must be \[16"),
}  # fmt: skip
T5_FOLDERS = {
    "another class": ({"model_type": "umt5"}, "describes umt5, and the text_encoder_2 of a FLUX model is t5"),
    "other channels": ({"d_model": 64}, "makes text embeddings of 64 channels, and this model's transformer takes 128"),
    "fewer tokens": ({"vocab_size": 99}, "knows 99 tokens, and this model's tokenizer makes 1000"),
    "other weights": ({"num_layers": 4}, r"lacks 9 of its weights, 'encoder\.block\.3\."),
}


@pytest.mark.parametrize(("values", "sentence"), VAE_FOLDERS.values(), ids=VAE_FOLDERS)
def test_a_folder_of_another_autoencoder_is_refused(values, sentence, tmp_path, tiny_folder, temporary):
    folder = changed(shutil.copytree(tiny_folder / "vae", tmp_path / "vae"), **values)
    refused(sentence, temporary, vae=str(folder))


@pytest.mark.parametrize(("values", "sentence"), T5_FOLDERS.values(), ids=T5_FOLDERS)
def test_a_folder_of_another_t5_is_refused(values, sentence, tmp_path, tiny_folder, temporary):
    folder = changed(shutil.copytree(tiny_folder / "text_encoder_2", tmp_path / "t5"), **values)
    refused(sentence, temporary, t5=str(folder))


def refused(sentence, temporary, **given):
    with pytest.raises(dit360.ModelError, match=sentence):
        prepare(LoadOptions(**given), registry=default_registry())
    assert not list(temporary.iterdir())


Q = "encoder.block.1.layer.0.SelfAttention.q.weight"
TENSORS = {
    "a VAE without its encoder": ("vae", lambda w: {n: t for n, t in w.items() if n != "encoder.conv_in.weight"},
                                  r"lacks encoder\.conv_in\.weight, so it is no autoencoder for this model"),
    "a VAE of other channels": ("vae", lambda w: {**w, "decoder.conv_in.weight": torch.zeros(96, 4, 3, 3)},
                                "makes latents of 4 channels, and this model's transformer takes 32"),
    "a VAE of other layers": ("vae", lambda w: {**w, "decoder.conv_out.weight": torch.zeros(3, 8, 3, 3)},
                              r"has the shape \[3, 8, 3, 3\] instead of \[3, 24, 3, 3\] for decoder\.conv_out"),
    "a small VAE": ("vae", lambda w: {"decoder.layers.0.weight": torch.zeros(1)}, "holds no autoencoder of FLUX.1 but"),
    "an empty VAE": ("vae", lambda w: {}, "holds no autoencoder of FLUX.1 but no tensors"),
    "a T5 of fewer layers": ("t5", lambda w: {n: t for n, t in w.items() if "block.2" not in n},
                             r"lacks encoder\.block\.2\.layer\.0.*no T5 encoder for this model"),
    "a T5 of more channels": ("t5", lambda w: {**w, "shared.weight": torch.zeros(1000, 256)},
                              "makes text embeddings of 256 channels, and this model's transformer takes 128"),
    "a CLIP": ("t5", lambda w: {"text_model.final_layer_norm.bias": torch.zeros(1)}, "holds no T5 encoder of"),
    "a T5 with scales of another number of rows": (
        "t5",
        lambda w: {**w, Q: w[Q].to(torch.float8_e4m3fn), Q.replace("weight", "scale_weight"): torch.ones(7)},
        r"has scales .*SelfAttention\.q\.scale_weight of the shape \[7\] in F32, where one for all or one for each",
    ),
    "a T5 of Nunchaku": ("t5", lambda w: {**w, Q.replace("weight", "wscales"): torch.ones(1)},
                         "is quantized by Nunchaku.*take its fp8 or GGUF file instead"),
    "a T5 in nvfp4": ("t5", lambda w: {**w, Q.replace("weight", "weight_scale_2"): torch.ones(1)},
                      "is quantized as nvfp4"),
    "a T5 in whole numbers": ("t5", lambda w: {**w, Q: torch.ones(128, 128, dtype=torch.int8)},
                              "holds 1 tensors of I8 .*which mean nothing without their scales"),
}  # fmt: skip


@pytest.mark.parametrize(("option", "change", "sentence"), TENSORS.values(), ids=TENSORS)
def test_a_file_of_something_else_is_refused(option, change, sentence, tmp_path, weights, temporary):
    tensors = change(weights[REPLACEABLE[option]])
    refused(sentence, temporary, **{option: file_of(tmp_path, tensors)})


# ------------------------------------------------------------------------------------------------- what is left behind


def test_the_folder_goes_with_the_pipeline_and_leaves_what_it_led_to(tmp_path, tiny_copy, weights, temporary):
    pipe = dit360.load(str(tiny_copy), vae=file_of(tmp_path, in_their_names(weights["vae"])), evict="all")
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    (made,) = temporary.iterdir()
    own = {path.name for path in made.rglob("*") if path.is_file() and not path.is_symlink()}
    assert own == {"config.json", "weights_from.json"}
    pipe.generate(**PICTURE)
    assert made.is_dir()
    del pipe
    gc.collect()
    assert not list(temporary.iterdir())
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_nothing_is_left_when_the_process_ends(tmp_path, tiny_folder, weights):
    (tmp_path / "for-the-time").mkdir()
    t5 = file_of(tmp_path, weights["text_encoder_2"])
    code = f"""
from pathlib import Path
from dit360_core import options
from dit360_core.models.composed import compose, find
from dit360_core.models.flux.architecture import FLUX
kept = compose(FLUX, Path({str(tiny_folder)!r}), find(FLUX, options.LoadOptions(t5={t5!r})))
print(kept.folder, (kept.folder / "text_encoder_2" / "weights_from.json").is_file())
"""
    done = python(code, cwd=tmp_path, TMPDIR=tmp_path / "for-the-time")
    assert "dit360-model-" in done.stdout, done.stderr
    assert "True" in done.stdout
    assert not list((tmp_path / "for-the-time").iterdir())


def test_a_fork_leaves_the_folder_to_its_parent(tmp_path, monkeypatch):
    made = ModelFiles(tmp_path / "made", temporary=True)
    made.folder.mkdir()
    here = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: here + 1)
    made.remove()
    assert made.folder.is_dir()


def test_where_links_cannot_be_made_files_are_linked_otherwise_or_copied(tmp_path, monkeypatch):
    def no(*arguments):
        raise OSError("a required privilege is not held")

    file = tmp_path / "file"
    file.write_bytes(b"1234")
    monkeypatch.setattr("os.symlink", no)
    composed.link(file, tmp_path / "hard")
    assert (tmp_path / "hard").samefile(file)
    monkeypatch.setattr("os.link", no)
    composed.link(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"1234"
    assert not (tmp_path / "copy").samefile(file)
    monkeypatch.setattr(composed, "_SMALL", 3)
    with pytest.raises(dit360.ModelError, match="cannot be linked into"):
        composed.link(file, tmp_path / "large")
