"""Krea's own names of tensors are those that diffusers' conversion takes."""

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers as converted
from dit360_core import ModelError, load
from dit360_model_krea.original_names import original_name
from family_checks import pixels
from layer_names import small
from random_families import random_krea
from safetensors.torch import load_file, save_file


def test_diffusers_makes_each_tensor_of_the_one_that_is_named():
    wanted = small("krea").state_dict()
    numbered = {original_name(name): torch.full((6,), float(n)) for n, name in enumerate(wanted)}
    assert None not in numbered
    assert len(numbered) == len(wanted)
    made = converted(numbered)
    assert {name: tensor.flatten()[0].item() for name, tensor in made.items()} == dict(
        zip(wanted, map(float, range(len(wanted))), strict=True)
    )


def test_six_vectors_of_a_modulation_are_one_in_krea_s_files():
    table = torch.arange(24.0)
    made = converted({original_name("transformer_blocks.1.scale_shift_table"): table})
    assert torch.equal(made["transformer_blocks.1.scale_shift_table"], table.view(6, 4))


def test_a_folder_with_krea_s_names_paints_the_same(tmp_path):
    random_krea().save_pretrained(tmp_path)
    asked = {"prompt": "a calm sea", "width": 64, "steps": 1, "seed": 1}
    plain = pixels(load(str(tmp_path), device="cpu", precision="fp32").generate(**asked))
    [file] = (tmp_path / "transformer").glob("*.safetensors")
    tensors = {
        original_name(name): tensor.flatten() if name.endswith("scale_shift_table") else tensor
        for name, tensor in load_file(file).items()
    }
    save_file({**tensors, "last.up.weight": torch.ones(2, 2)}, file)
    for options in ({}, {"quantization_mode": "int8", "quantization_parts": "transformer"}):
        made = load(str(tmp_path), device="cpu", precision="fp32", **options).generate(**asked)
        off = np.abs(pixels(made) - plain).max()
        assert off == 0 if not options else off < 60
    save_file({**tensors, "blocks.0.attn.strange.weight": torch.ones(2, 2)}, file)
    with pytest.raises(ModelError, match=r"no place for, such as 'blocks\.0\.attn\.strange\.weight'"):
        load(str(tmp_path), device="cpu", precision="fp32")


@pytest.mark.parametrize(
    "name", ["transformer_blocks.0.attn.add_q_proj.weight", "x_embedder.weight", "", "blocks.0.mod.lin"]
)
def test_names_of_other_models_have_none(name):
    assert original_name(name) is None
