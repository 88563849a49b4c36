"""What goes on with single files after they were opened: parts beside them, LoRAs, files that change, scales."""

import shutil

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.planning.forecast import subject_of
from dit360_core.planning.places import beside
from dit360_core.plugins.registry import default_registry
from safetensors.torch import load_file, save_file
from weight_files import FORMS, original_names, part, write

PICTURE = {"prompt": "a castle", "width": 64, "steps": 1, "seed": 1}


@pytest.fixture(scope="module")
def tensors(tiny_folder):
    """The embedded model's transformer in Black Forest Labs' names."""
    return original_names(part(tiny_folder, "transformer"))


def pixels(**options):
    pipe = dit360.load("tiny", device="cpu", precision="fp32", **options)
    return np.asarray(pipe.generate(**PICTURE).image).astype(int), pipe


def of_one_layer(place):
    """A LoRA of queries, keys and values in one."""
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = torch.randn(4, 192) * 0.1, torch.randn(576, 4) * 0.1
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, place / "lora.safetensors")
    return str(place / "lora.safetensors")


def test_a_lora_of_three_layers_in_one_waits_in_files_too(tensors, tmp_path):
    write(tmp_path / "fp8.safetensors", tensors, FORMS["fp8"])
    given = {"transformer": str(tmp_path / "fp8.safetensors"), "lora": of_one_layer(tmp_path)}
    there, _ = pixels(**given)
    away, pipe = pixels(**given, offload="disk")
    assert np.abs(there - away).max() <= 1
    assert pipe.plan.lora_mode == "adapter"


def test_loras_that_will_lie_beside_are_planned_for(tensors, tmp_path):
    write(tmp_path / "fp8.safetensors", tensors, FORMS["fp8"])
    lora = of_one_layer(tmp_path)

    def weighs(**options):
        asked = LoadOptions(model="tiny", lora=(lora,), device="cpu", **options)
        return subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), default_registry()).beside

    assert weighs() == 0
    assert weighs(transformer=str(tmp_path / "fp8.safetensors")) == weighs(lora_mode="adapter") > 0


def test_scales_of_numbers_in_full_are_obeyed_and_those_of_nothing_refused(tensors, tmp_path):
    twice = {
        name: (tensor * 2 if tensor.ndim == 2 and name.endswith("weight") else tensor)
        for name, tensor in tensors.items()
    }
    scales = {
        name.replace(".weight", ".scale_weight"): torch.full((1,), 0.5)
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and name.endswith("weight")
    }
    save_file({**twice, **scales}, tmp_path / "scaled.safetensors")
    plain, _ = pixels()
    assert np.abs(pixels(transformer=str(tmp_path / "scaled.safetensors"))[0] - plain).max() <= 1
    save_file({**tensors, "double_blocks.0.ghost.scale_weight": torch.ones(1)}, tmp_path / "ghost.safetensors")
    with pytest.raises(ModelError, match=r"has no place for, such as 'double_blocks\.0\.ghost\.scale_weight'"):
        pixels(transformer=str(tmp_path / "ghost.safetensors"))


def test_a_single_transformer_leaves_the_other_parts_to_be_looked_at(tensors, tmp_path, tiny_folder):
    save_file(tensors, tmp_path / "x.safetensors")
    folder = shutil.copytree(tiny_folder / "text_encoder_2", tmp_path / "t5")
    config = (folder / "config.json").read_text().replace('"vocab_size": 1000', '"vocab_size": 99')
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match="knows 99 tokens, and this model's tokenizer makes 1000"):
        pixels(transformer=str(tmp_path / "x.safetensors"), t5=str(folder))


def test_a_file_that_changed_meanwhile_is_told(tensors, tmp_path):
    file = tmp_path / "fp8.safetensors"
    write(file, tensors, FORMS["fp8"])
    _, pipe = pixels(transformer=str(file), evict="all")
    held = load_file(file)
    held["img_in.bias"] = held["img_in.bias"][:100]
    save_file(held, file)
    with pytest.raises(ModelError, match=r"fp8\.safetensors has changed since the model was loaded; load it anew"):
        pipe.generate(**{**PICTURE, "seed": 2})


def test_a_file_is_called_what_it_was_called(tensors, tmp_path):
    (tmp_path / "blobs").mkdir()
    write(tmp_path / "blobs" / "3af1", tensors, FORMS["fp8"])
    (tmp_path / "flux.safetensors").symlink_to(tmp_path / "blobs" / "3af1")
    _, pipe = pixels(transformer=str(tmp_path / "flux.safetensors"), lora=of_one_layer(tmp_path))
    told = " ".join([*pipe.plan.warnings(), *pipe.state.sentences()])
    assert "flux.safetensors has as fp8" in told
    assert "3af1" not in told


def test_parts_that_lie_in_one_flat_folder_are_found(tmp_path):
    for name in ("ae.safetensors", "clip_l.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "other.safetensors").touch()
    files = beside(LoadOptions(models_dir=str(tmp_path)))
    assert {path.name for path in files("vae")} == {"ae.safetensors", "clip_l.safetensors", "other.safetensors"}
    assert {path.name for path in files("clip")} == {"ae.safetensors", "clip_l.safetensors"}


def test_where_links_cannot_be_made_a_whole_file_paints_nevertheless(tensors, tmp_path, monkeypatch):
    save_file(tensors, tmp_path / "x.safetensors")

    def refuses(*_):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr("os.symlink", refuses)
    pipe = dit360.load(str(tmp_path / "x.safetensors"), device="cpu")
    assert pipe.generate(**PICTURE).width == 64
