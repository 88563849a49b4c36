"""Folders of Qwen-Image: names of tensors by every transformers, and what is no such folder, in one sentence."""

import json
import shutil

import pytest
import torch
from dit360_core.errors import InputError, ModelError
from dit360_core.models.families import architecture_of, check_model
from dit360_core.models.weights.stream import whole as read
from dit360_core.pipeline.pipeline import Pipeline
from random_families import random_qwen
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    random_qwen().save_pretrained(place)
    return place


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "model")


def change(file, **values):
    found = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**found, **values}), encoding="utf-8")


def as_old(name):
    """transformers before 4.52."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def as_new(name):
    """transformers since then."""
    plain = as_old(name)
    if plain.startswith("visual."):
        return f"model.{plain}"
    return plain.replace("model.", "model.language_model.") if plain.startswith("model.") else plain


def alone(name):
    """The language model by itself."""
    plain = as_old(name)
    return plain.removeprefix("model.") if plain.startswith("model.") else None


@pytest.mark.parametrize("named", [as_old, as_new, alone])
def test_the_text_encoder_is_found_by_every_name(folder, named):
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {new: tensor for name, tensor in load_file(file).items() if (new := named(name)) is not None}
    save_file(tensors, file, {"format": "pt"})
    check_model(folder)
    made = read(architecture_of(folder).networks, "text_encoder", folder / "text_encoder", torch.float32)
    wanted = random_qwen().text_encoder.model.language_model
    assert all(torch.equal(tensor, made.get_parameter(name)) for name, tensor in wanted.named_parameters())
    assert len(list(made.parameters())) == len(list(wanted.parameters()))


def test_the_configuration_of_a_text_encoder_may_be_flat_as_older_ones_are(folder):
    file = folder / "text_encoder" / "config.json"
    found = json.loads(file.read_text("utf-8"))
    text = found.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {
        **found, **{key: value for key, value in text.items() if key not in ("model_type", "layer_types")},
        "rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }  # fmt: skip
    file.write_text(json.dumps(flat), encoding="utf-8")
    check_model(folder)
    made = architecture_of(folder).networks.empty("text_encoder", folder / "text_encoder")
    assert made.config.rope_parameters["rope_theta"] == 1e6
    assert made.config.rope_parameters["mrope_section"] == [2, 3, 3]


BAD = {
    "edit pipeline": (
        lambda folder: change(folder / "model_index.json", _class_name="QwenImageEditPipeline"),
        "QwenImageEditPipeline, which changes a picture as it is told to, but dit360 runs QwenImagePipeline models",
    ),
    "control pipeline": (
        lambda folder: change(folder / "model_index.json", _class_name="QwenImageControlNetPipeline"),
        "follows a control picture",
    ),
    "edit transformer": (
        lambda folder: change(folder / "transformer" / "config.json", zero_cond_t=True),
        "zero_cond_t is set, as in a model that changes pictures",
    ),
    "layered transformer": (
        lambda folder: change(folder / "transformer" / "config.json", use_layer3d_rope=True),
        "takes pictures apart into layers",
    ),
    "distilled transformer": (
        lambda folder: change(folder / "transformer" / "config.json", guidance_embeds=True),
        "guidance_embeds is set",
    ),
    "another transformer": (
        lambda folder: change(folder / "transformer" / "config.json", _class_name="FluxTransformer2DModel"),
        "the transformer of a Qwen-Image model is QwenImageTransformer2DModel",
    ),
    "axes": (
        lambda folder: change(folder / "transformer" / "config.json", axes_dims_rope=[4, 4, 4]),
        "axes_dims_rope is",
    ),
    "wide": (lambda folder: change(folder / "transformer" / "config.json", in_channels=128), "takes 128 channels"),
    "another autoencoder": (
        lambda folder: change(folder / "vae" / "config.json", _class_name="AutoencoderKL"),
        "the vae of a Qwen-Image model is AutoencoderKLQwenImage",
    ),
    "statistics": (lambda folder: change(folder / "vae" / "config.json", latents_mean=[0.0] * 8), "latents_mean has 8"),
    "halvings": (
        lambda folder: change(folder / "vae" / "config.json", temperal_downsample=[True, True]),
        "temperal_downsample has 2 entries",
    ),
    "another reader": (
        lambda folder: change(folder / "text_encoder" / "config.json", model_type="qwen3"),
        "describes qwen3, and the text_encoder of a Qwen-Image model is qwen2_5_vl",
    ),
    "sections": (
        lambda folder: change(
            folder / "text_encoder" / "config.json",
            text_config={
                **json.loads((folder / "text_encoder" / "config.json").read_text("utf-8"))["text_config"],
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
            },
        ),
        "mrope_section is",
    ),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "lacks tokenizer"),
    "damaged": (lambda folder: (folder / "vae" / "config.json").write_text("{"), "is not readable JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_folder_of_it_is_one_sentence(folder, case):
    damage, told = BAD[case]
    damage(folder)
    with pytest.raises(ModelError) as caught:
        check_model(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changed"), [("transformer", {"num_layers": 3}), ("vae", {"base_dim": 16, "dim_mult": [1, 2, 4, 4]})]
)
def test_weights_of_another_model_are_one_sentence(folder, part, changed):
    change(folder / part / "config.json", **changed)
    with pytest.raises(ModelError, match="model"):
        read(architecture_of(folder).networks, part, folder / part, torch.float32)


def test_a_pipeline_that_edits_is_not_adopted():
    from diffusers import QwenImageEditPipeline

    theirs = random_qwen()
    edits = QwenImageEditPipeline(**theirs.components, processor=None)
    with pytest.raises(InputError, match="changes a picture as it is told to"):
        Pipeline.from_diffusers(edits)
    theirs.transformer.register_to_config(zero_cond_t=True)
    with pytest.raises(InputError, match="zero_cond_t is set"):
        Pipeline.from_diffusers(theirs)


def test_code_that_a_folder_chooses_is_told(folder, caplog):
    change(folder / "transformer" / "config.json", auto_map={"AutoModel": "evil.py"})
    check_model(folder)
    assert "choose code" in caplog.text
