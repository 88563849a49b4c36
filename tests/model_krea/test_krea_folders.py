"""Folders that are none of Krea 2's, or damaged ones: a sentence each, before any weights are read."""

import json
import shutil

import pytest
from dit360_core.errors import InputError, ModelError
from dit360_core.models.families import check_model
from dit360_core.pipeline.pipeline import Pipeline
from random_families import random_krea


@pytest.fixture
def changed(folder, tmp_path):
    """The model in a folder of its own, one file of it with other values."""

    def change(file, values):
        where = tmp_path / "changed"
        shutil.copytree(folder, where)
        told = json.loads((where / file).read_text(encoding="utf-8"))
        (where / file).write_text(json.dumps({**told, **values}), encoding="utf-8")
        return where

    return change


INDEX, TRANSFORMER, VAE = "model_index.json", "transformer/config.json", "vae/config.json"


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        (INDEX, {"patch_size": 4}, "says that patch_size is 4, and dit360 runs Krea 2 models whose tokens are 2 by 2"),
        (INDEX, {"is_distilled": "yes"}, "says that is_distilled is 'yes', and it is true or false"),
        (INDEX, {"text_encoder_select_layers": [1, 3, 9]}, "reads layer 9 of a text encoder that has 5"),
        (INDEX, {"text_encoder_select_layers": [1, 3, -7]}, "reads layer -7 of a text encoder that has 5"),
        (INDEX, {"text_encoder_select_layers": [1, 3]}, "reads 2 layers of the text encoder, and the transform"),
        (INDEX, {"text_encoder_select_layers": "all"}, "is 'all', and it is a list of whole numbers"),
        (INDEX, {"text_encoder_select_layers": None}, "reads layer 8 of a text encoder that has 5"),
        (INDEX, {"transformer": ["my_code", "Mine"]}, "wants code for its transformer"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "a Krea 2 model's is AutoencoderKLQwenImage"),
        (TRANSFORMER, {"num_key_value_heads": 3}, "num_attention_heads is 4, which is no multiple of num_key"),
        (TRANSFORMER, {"axes_dims_rope": [4, 2, 4]}, "they are even and add up to it"),
        (TRANSFORMER, {"text_hidden_dim": 32}, "has 16 channels, and the transformer takes 32"),
        (TRANSFORMER, {"in_channels": 64}, "takes 64 channels, and a picture's latents have 16"),
        (TRANSFORMER, {"num_layers": "many"}, "num_layers"),
        (VAE, {"latents_std": [1.0, 2.0]}, "latents_std"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(changed, file, values, sentence):
    with pytest.raises(ModelError, match=sentence):
        check_model(changed(file, values))


def test_a_part_that_is_missing_is_named(folder, tmp_path):
    where = tmp_path / "less"
    shutil.copytree(folder, where)
    shutil.rmtree(where / "text_encoder")
    with pytest.raises(ModelError, match="lacks text_encoder; download the whole model"):
        check_model(where)


def test_a_given_pipeline_with_larger_tokens_is_refused():
    theirs = random_krea()
    theirs.patch_size = 4
    with pytest.raises(InputError, match="has the patch_size 4, and dit360 runs Krea 2 models whose tokens are 2 by 2"):
        Pipeline.from_diffusers(theirs)
    theirs.patch_size, theirs.transformer = 2, theirs.vae
    with pytest.raises(InputError, match="which is not a Krea 2 transformer; give a Krea2Pipeline"):
        Pipeline.from_diffusers(theirs)
