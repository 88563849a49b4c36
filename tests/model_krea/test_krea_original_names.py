"""Krea's own names of tensors are those that diffusers' conversion takes."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers as converted
from dit360_model_krea.original_names import original_name
from layer_names import small


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


@pytest.mark.parametrize(
    "name", ["transformer_blocks.0.attn.add_q_proj.weight", "x_embedder.weight", "", "blocks.0.mod.lin"]
)
def test_names_of_other_models_have_none(name):
    assert original_name(name) is None
