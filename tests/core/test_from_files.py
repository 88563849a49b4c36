"""Models of single files alone: which they are, what they lack, and where files named by their names alone lie."""

import json
import shutil
from pathlib import Path

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
from command_line import dit360 as run_in
from dit360_core.errors import InputError, ModelError
from dit360_core.models.families import architecture_of, architectures
from dit360_core.models.from_files import from_files
from dit360_core.models.inspection import inspected
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.planning.forecast import subject_of
from dit360_core.planning.places import located
from dit360_core.plugins.registry import default_registry
from safetensors.torch import load_file, save_file
from weight_files import CONTAINERS, FILES, original_names, part

PICTURE = {"prompt": "a castle", "width": 64, "steps": 1, "seed": 1}
REGISTRY = default_registry()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No folders of models of whoever runs this."""
    for name in ("DIT360_MODELS_DIR", "DIT360_COMFYUI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    """The embedded model's parts in single files under the names that people have, and one of the whole model."""
    place = tmp_path_factory.mktemp("files")
    tensors = {name: part(tiny_folder, name) for name in FILES}
    tensors["transformer"] = original_names(tensors["transformer"])
    named = {
        "transformer": "flux1-tiny.safetensors", "vae": "ae.safetensors", "text_encoder": "clip_l.safetensors",
        "text_encoder_2": "t5xxl.safetensors",
    }  # fmt: skip
    for name, file in named.items():
        save_file(tensors[name], place / file)
    whole = {CONTAINERS[name] + key: tensor for name, held in tensors.items() for key, tensor in held.items()}
    save_file(whole, place / "all-in-one.safetensors")
    return place


@pytest.fixture(scope="module")
def plain(tiny):
    return pixels(tiny.generate(**PICTURE))


def command(*words, cwd=None, **more):
    """One command line."""
    (told,) = run_in([str(word) for word in words], cwd=cwd or Path.cwd(), **more)
    return told


def same(one, other):
    """To a level: numbers that lie elsewhere in memory are multiplied in another order."""
    return np.abs(one - other).max() <= 1


def pixels(panorama):
    return np.asarray(panorama.image).astype(int)


def built(**options):
    return from_files(LoadOptions(**options), REGISTRY, whole=True)


# ------------------------------------------------------------------------------------------------ whole models of files


@pytest.mark.parametrize("file", ["flux1-tiny.safetensors", "all-in-one.safetensors"])
def test_a_file_stands_for_the_model_that_its_shapes_are(files, plain, file):
    pipe = dit360.load(str(files / file), device="cpu")
    made = pipe.generate(**PICTURE)
    assert same(pixels(made), plain)
    assert pipe.plan.sentences()[0] == f"model: {files / file}, fp32 on cpu"
    used = made.settings["used"]
    assert used["base"] == str(files / file)
    parts = {"transformer"} if file.startswith("flux1") else {"transformer", "vae", "clip", "t5"}
    assert {name for name in ("transformer", "vae", "clip", "t5") if name in used} == parts
    assert "/tmp" not in json.dumps(made.settings).replace(str(files), "")


def test_a_transformer_of_the_default_models_shape_takes_the_place_of_its_own(files, plain):
    pipe = dit360.load(transformer=str(files / "flux1-tiny.safetensors"), device="cpu")
    assert same(pixels(pipe.generate(**PICTURE)), plain)
    assert pipe.plan.options.model == "tiny"


def wide(tiny_folder, place, **changed):
    """The headers of a transformer of another shape, whose numbers are zeros."""
    config = json.loads((tiny_folder / "transformer" / "config.json").read_text())
    (place / "transformer").mkdir(parents=True)
    (place / "transformer" / "config.json").write_text(json.dumps({**config, **changed}))
    shutil.copyfile(tiny_folder / "model_index.json", place / "model_index.json")
    family = architecture_of(place)
    module = family.networks.empty("transformer", place / "transformer")
    file = place / "another.safetensors"
    save_file({name: torch.zeros(tensor.shape) for name, tensor in module.state_dict().items()}, file)
    return file


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_layers": 3, "num_single_layers": 1}, {"num_layers": 3, "num_single_layers": 1}),
        ({"guidance_embeds": False}, {"guidance_embeds": False}),
        ({"num_attention_heads": 2}, {"num_attention_heads": 2}),
    ],
)
def test_one_of_other_sizes_is_told_by_its_shapes(tiny_folder, tmp_path, changed, told):
    file = wide(tiny_folder, tmp_path / "wide", **changed)
    made = built(transformer=str(file))
    config = json.loads((made.files.folder / "transformer" / "config.json").read_text())
    assert {name: config[name] for name in told} == told
    scheduler = json.loads((made.files.folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["use_dynamic_shifting"] == (changed.get("guidance_embeds", True))
    assert (made.model.steps, made.model.base) == (4 if "guidance_embeds" in changed else 28, str(file))
    pipe = dit360.load(str(file), device="cpu")
    with torch.no_grad():
        assert pipe.sample(pipe.encode("a sea"), width=64, steps=1, seed=1).tensor.shape == (1, 32, 4, 8)


def test_what_each_named_model_is_is_told_by_its_shapes_alone():
    for family in architectures(REGISTRY):
        for entry in REGISTRY.entries("model"):
            folder = entry.offer.shape
            if folder is None or architecture_of(Path(folder)) != family:
                continue
            module = family.networks.empty("transformer", Path(folder) / "transformer")
            shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
            config = family.read_config("transformer", Path(folder) / "transformer")
            told = family.from_shapes(shapes, "some-turbo-distilled").transformer
            assert {name: told[name] for name in told if name in config} == {
                name: config[name] for name in told if name in config
            }, entry.name
            assert len(told.keys() & config.keys()) > 4


@pytest.mark.parametrize(
    ("family", "name", "distilled", "noted"),
    [
        ("klein-360", "flux-2-klein-base-4b", False, False), ("klein-360", "flux-2-klein-4b", True, True),
        ("klein-360", "klein-distilled", True, False), ("krea-360", "krea2_turbo_fp8", True, False),
        ("krea-360", "Krea-2-Raw", False, False), ("krea-360", "krea2", True, True),
    ],
)  # fmt: skip
def test_what_no_shape_tells_is_told_by_the_name_or_said_to_be_taken_for_granted(family, name, distilled, noted):
    (entry,) = REGISTRY.find("model", family)
    folder = Path(entry.offer.shape)
    architecture = architecture_of(folder)
    module = architecture.networks.empty("transformer", folder / "transformer")
    told = architecture.from_shapes({key: tuple(t.shape) for key, t in module.named_parameters()}, name)
    assert told.index["is_distilled"] is distilled
    assert [name in note for note in told.notes] == [True] * noted


def test_parts_that_are_missing_are_named_with_what_to_give(tmp_path):
    shapes = Path(REGISTRY.find("model", "dit360")[0].offer.shape)
    module = architecture_of(shapes).networks.empty("transformer", shapes / "transformer")
    file = headers_alone(tmp_path / "flux1-dev.safetensors", module)
    for given in ({"model": str(file)}, {"transformer": str(file)}):
        with pytest.raises(ModelError) as told:
            built(**given)
        assert "is a FLUX.1 without the autoencoder, the CLIP encoder and the T5 encoder; give" in str(told.value)
        assert "(ae.safetensors)" in str(told.value)


def headers_alone(file, module):
    """A file as long as such a part's, of zeros that take no room on a disk."""
    told, at = {}, 0
    for name, tensor in module.named_parameters():
        told[name] = {"dtype": "F8_E4M3", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.numel()]}
        at += tensor.numel()
    text = json.dumps(told).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + at)
    return file


def test_a_real_model_of_files_is_planned_without_a_network(tmp_path, monkeypatch):
    """FLUX.1-dev in fp8, T5 too: seventeen billion weights of a byte each, none of which is read."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shapes = Path(REGISTRY.find("model", "dit360")[0].offer.shape)
    networks = architecture_of(shapes).networks
    given = {
        option: str(headers_alone(tmp_path / f"{option}.safetensors", networks.empty(name, shapes / name)))
        for option, name in (("transformer", "transformer"), ("vae", "vae"), ("clip", "text_encoder"),
                             ("t5", "text_encoder_2"))
    }  # fmt: skip
    asked = LoadOptions(**given, vram="16", device="cuda")
    subject = subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), REGISTRY)
    assert set(subject.kept) == {"transformer", "text_encoder_2"}
    assert subject.kept["transformer"].form == "fp8"
    assert (subject.model.base, subject.size) == (given["transformer"], (2048, 1024))
    with pytest.raises(ModelError, match=r"needs the tokenizer of black-forest-labs/FLUX.1-dev.*hf download"):
        built(**given)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: {"transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 8)}, "is a LoRA and no model"),
        (lambda: {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)},
         "holds a T5 encoder and no transformer"),
        (lambda: {"strange": torch.zeros(4)}, "holds no transformer of a family that is installed"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_told_what_it_is(tmp_path, make, told):
    save_file(make(), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=told) as caught:
        built(model=str(tmp_path / "x.safetensors"))
    assert "\n" not in str(caught.value)


def test_nothing_is_left_of_the_folder_that_was_made(files, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipe = dit360.load(str(files / "all-in-one.safetensors"), device="cpu")
    assert list(tmp_path.iterdir())
    del pipe
    import gc

    gc.collect()
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- names alone


@pytest.fixture
def comfyui(files, tmp_path):
    """ComfyUI's folders, with those files, and a further folder that its file of paths names."""
    root, more = tmp_path / "ComfyUI", tmp_path / "more"
    for kind, file in (("diffusion_models", "flux1-tiny"), ("vae", "ae"), ("text_encoders", "t5xxl")):
        (root / "models" / kind / "mine").mkdir(parents=True)
        shutil.copyfile(files / f"{file}.safetensors", root / "models" / kind / "mine" / f"{file}.safetensors")
    (more / "clips").mkdir(parents=True)
    shutil.copyfile(files / "clip_l.safetensors", more / "clips" / "clip_l.safetensors")
    paths = "mine:\n  base_path: ../more\n  is_default: true\n  clip: |\n    nowhere\n    clips\n"
    (root / "extra_model_paths.yaml").write_text(paths)
    return root


GIVEN = {
    "transformer": "flux1-tiny.safetensors", "vae": "ae.safetensors", "clip": "clip_l.safetensors",
    "t5": "mine/t5xxl.safetensors",
}  # fmt: skip


def test_files_in_comfyuis_folders_are_found_by_their_names(comfyui, monkeypatch, tmp_path):
    monkeypatch.setenv("DIT360_COMFYUI", str(comfyui))
    found = located(LoadOptions(**GIVEN))
    assert found.transformer == str(comfyui / "models" / "diffusion_models" / "mine" / "flux1-tiny.safetensors")
    assert found.clip.endswith("more/clips/clip_l.safetensors")
    assert (found.vae, found.t5) == tuple(
        str(comfyui / "models" / kind / "mine" / f"{file}.safetensors")
        for kind, file in (("vae", "ae"), ("text_encoders", "t5xxl"))
    )
    with pytest.raises(ModelError, match=r"There is no ae\.sft here, and none in .*vae; see its name"):
        located(LoadOptions(vae="ae.sft"))
    # What is here comes first, and what is no file's name stays as it is.
    (tmp_path / "flux1-tiny.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert located(LoadOptions(transformer="flux1-tiny.safetensors")).transformer == "flux1-tiny.safetensors"
    assert located(LoadOptions(model="dit360")).model == "dit360"


def test_plan_and_generate_by_file_names_alone(comfyui, tmp_path, plain):
    asked = [text for option, name in GIVEN.items() for text in (f"--{option}", name)]
    there = {"DIT360_COMFYUI": comfyui}
    planned = command("plan", *asked, "--width", "64", "--json", cwd=tmp_path, **there)
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["requested"]["vae"] == "ae.safetensors"
    made = command(
        "generate", "a castle", *asked, "--width", "64", "--steps", "1", "--seed", "1", "-o", "a.png", cwd=tmp_path,
        **there,
    )  # fmt: skip
    assert made.code == 0, made.err
    assert same(pixels(dit360.Panorama.open(tmp_path / "a.png")), plain)


def test_a_folder_of_models_is_searched_and_what_is_there_twice_is_told(files, tmp_path):
    folder = Path(shutil.copytree(files, tmp_path / "models" / "flux"))
    asked = LoadOptions(models_dir=str(tmp_path / "models"), vae="ae.safetensors", lora=("style.safetensors:0.5",))
    (folder / "loras").mkdir()
    (folder / "loras" / "style.safetensors").touch()
    found = located(asked)
    assert found.vae == str(folder / "ae.safetensors")
    assert found.lora == (f"{folder / 'loras' / 'style.safetensors'}:0.5",)
    (tmp_path / "models" / "vae").mkdir()
    shutil.copyfile(files / "ae.safetensors", tmp_path / "models" / "vae" / "ae.safetensors")
    assert located(asked).vae == str(tmp_path / "models" / "vae" / "ae.safetensors")  # where such files belong
    shutil.copyfile(files / "ae.safetensors", tmp_path / "models" / "ae2.safetensors")
    for place in ("a", "b"):
        (tmp_path / "models" / place).mkdir()
        shutil.copyfile(files / "ae.safetensors", tmp_path / "models" / place / "twice.safetensors")
    with pytest.raises(ModelError, match=r"twice\.safetensors is there more than once \(.*give the path"):
        located(attrs.evolve(asked, vae="twice.safetensors"))


@pytest.mark.parametrize(
    ("text", "told"), [("[1, 2", "cannot be read"), ("a: {clip: 7}", None), ("", None), ("- a", "cannot be read")]
)
def test_comfyuis_file_of_paths_is_read_or_told(tmp_path, monkeypatch, text, told):
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    (tmp_path / "models" / "vae").mkdir(parents=True)
    monkeypatch.setenv("DIT360_COMFYUI", str(tmp_path))
    if told is None:
        assert located(LoadOptions()) == LoadOptions()
        return
    with pytest.raises(ModelError, match=told):
        located(LoadOptions())


def test_the_other_parts_are_taken_where_they_lie_and_that_is_told(tmp_path, monkeypatch, caplog):
    """FLUX.1-dev's own shapes; a text encoder of another model lies beside."""
    shapes = Path(REGISTRY.find("model", "dit360")[0].offer.shape)
    networks = architecture_of(shapes).networks
    places = {
        "transformer": ("diffusion_models", "flux1-dev"), "vae": ("vae", "ae"),
        "text_encoder": ("text_encoders", "clip_l"), "text_encoder_2": ("text_encoders", "my-t5"),
    }  # fmt: skip
    for name, (folder, file) in places.items():
        (tmp_path / "models" / folder).mkdir(parents=True, exist_ok=True)
        headers_alone(tmp_path / "models" / folder / f"{file}.safetensors", networks.empty(name, shapes / name))
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}, tmp_path / "models/text_encoders/l.sft")
    (tmp_path / "models" / "vae" / "damaged.safetensors").write_text("no")
    monkeypatch.setenv("DIT360_COMFYUI", str(tmp_path))
    asked = LoadOptions(transformer="flux1-dev.safetensors", vram="8", device="cuda")
    with caplog.at_level("WARNING", "dit360"):
        subject = subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), REGISTRY)
    assert set(subject.kept) == {"transformer", "text_encoder_2"}
    told = " ".join(caplog.messages)
    for file in ("ae", "clip_l", "my-t5"):
        assert f"{file}.safetensors, which lies there and fits" in told
    models = tmp_path / "models"
    (models / "vae" / "ae2.safetensors").hardlink_to(models / "vae" / "ae.safetensors")
    (models / "text_encoders" / "t5-2.safetensors").hardlink_to(models / "text_encoders" / "my-t5.safetensors")
    # An autoencoder has the usual name; none of the text encoders has.
    with pytest.raises(ModelError, match=r"Several files fit as the T5 encoder \(.*name one with"):
        subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), REGISTRY)


def test_a_folder_that_is_not_there_is_told(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no such folder"):
        located(LoadOptions(models_dir=str(tmp_path / "nowhere")))
    monkeypatch.setenv("DIT360_MODELS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="DIT360_MODELS_DIR names"):
        located(LoadOptions())


# ---------------------------------------------------------------------------------------------------------- inspected


def test_what_a_file_is_and_fits_is_told(files):
    told = inspected(files / "all-in-one.safetensors", REGISTRY)
    assert [(each["part"], each["option"], "tiny" in each["fits"]) for each in told["parts"]] == [
        ("transformer", "transformer", True), ("autoencoder", "vae", True), ("CLIP encoder", "clip", True),
        ("T5 encoder", "t5", True),
    ]  # fmt: skip
    assert told["parts"][0]["configuration"]["num_layers"] == 2
    alone = inspected(files / "ae.safetensors", REGISTRY)
    assert [each["family"] for each in alone["parts"]] == ["FLUX.1"]


def test_what_a_file_lacks_is_told(files, tmp_path):
    tensors = load_file(files / "t5xxl.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, tmp_path / "t5.safetensors")
    (told,) = inspected(tmp_path / "t5.safetensors", REGISTRY)["parts"]
    assert (told["fits"], told["nearest"]["model"], told["nearest"]["lacks"]) == ([], "tiny", [name])
    shown = command("inspect", str(tmp_path / "t5.safetensors"), COLUMNS=200)
    assert f"fits no model that is known here; for tiny it lacks {name} (1 in all)" in shown.out


def test_a_lora_is_told_by_its_scheme_rank_and_layers(tmp_path):
    stems = ["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_3_linear1"]
    down, up = {f"{s}.lora_down.weight": torch.zeros(8, 4) for s in stems}, {}
    up = {f"{s}.lora_up.weight": torch.zeros(4, 8) for s in stems}
    save_file({**down, **up}, tmp_path / "lora.safetensors")
    told = inspected(tmp_path / "lora.safetensors", REGISTRY)
    assert (told["kind"], told["schemes"], told["ranks"]) == ("LoRA", ["kohya's names"], {"8": 2})
    assert told["layers"][0] == {"family": "FLUX.1", "layers": {"transformer": 2}, "of": 2}


def test_what_nobody_knows_is_told(tmp_path):
    save_file({"strange.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    assert inspected(tmp_path / "x.safetensors", REGISTRY)["kind"] == "unknown"
    shown = command("inspect", str(tmp_path / "x.safetensors"))
    assert "unknown: no family that is installed has tensors such as strange.weight" in shown.out


def test_parts_of_other_families_are_refused_by_name():
    with pytest.raises((InputError, ModelError), match=r"text_encoder names a part that FLUX\.1 does not have"):
        dit360.load("tiny", text_encoder="x.safetensors", device="cpu")
