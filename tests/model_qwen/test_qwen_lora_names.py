"""Layers of Qwen-Image are found in the names of every trainer, and are those that diffusers finds."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_qwen_lora_to_diffusers as converted_lora
from dit360_core.models.architecture import Target
from dit360_model_qwen.lora_names import find
from layer_names import SCHEMES, layers, small


@pytest.fixture(scope="module")
def model():
    return small("qwen")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_is_found_under_its_own_name(model, scheme):
    for name in layers(model)[0]:
        assert find(SCHEMES[scheme](name)) == Target(part="transformer", modules=(name,)), name


@pytest.mark.parametrize("scheme", ["kohya", "ComfyUI"])
def test_a_file_means_the_layers_that_diffusers_finds(model, scheme):
    stems = {name: SCHEMES[scheme](name) for name in layers(model)[1]}
    tensors = {}
    for number, stem in enumerate(stems.values()):
        tensors[f"{stem}.lora_down.weight"] = tensors[f"{stem}.lora_up.weight"] = torch.full((1, 1), float(number))
    theirs = converted_lora(dict(tensors))
    for number, (name, stem) in enumerate(stems.items()):
        (module,) = find(stem).modules
        assert module == name
        assert theirs[f"transformer.{module}.lora_A.weight"].item() == number


def test_a_file_of_diffsynth_studio_is_read():
    target = Target(part="transformer", modules=("transformer_blocks.3.attn.add_k_proj",))
    assert find("pipe.dit.transformer_blocks.3.attn.add_k_proj") == target


def test_layers_that_diffusers_fuses_are_found():
    qkv = tuple(f"transformer_blocks.1.attn.add_{x}_proj" for x in "qkv")
    assert find("transformer.transformer_blocks.1.attn.to_added_qkv") == Target(part="transformer", modules=qkv)


@pytest.mark.parametrize(
    "name",
    [
        *("lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.single_blocks.0.linear1"),  # FLUX.1, FLUX.2
        *("transformer.transformer_blocks.0.ff.net.2", "transformer.single_transformer_blocks.0.attn.to_q"),
        *("diffusion_model.blocks.0.attn.wq", "transformer.transformer_blocks.0.attn.to_gate"),  # Krea 2
        *("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_input_blocks_1_1_proj_in", ""),
    ],
)
def test_names_of_other_families_are_not_found(name):
    assert find(name) is None
