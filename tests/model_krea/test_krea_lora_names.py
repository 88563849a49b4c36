"""Layers of Krea 2 are found in the names of every trainer, and mean what diffusers' own conversion makes of them."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_krea2_lora_to_diffusers as converted_lora
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers as converted
from dit360_core.models.architecture import Target
from dit360_model_krea.lora_names import find
from layer_names import SCHEMES, layers, placed, small

TOP = (
    "first", "last.linear", "last.norm", "tmlp.0", "tmlp.2", "tproj.1", "txtmlp.0", "txtmlp.1", "txtmlp.3",
    "txtfusion.projector",
)  # fmt: skip
IN_BLOCKS = (
    *(f"attn.{name}" for name in ("wq", "wk", "wv", "wo", "gate", "qknorm.qnorm", "qknorm.knorm")),
    *("mlp.gate", "mlp.up", "mlp.down", "prenorm", "postnorm"),
)  # fmt: skip
BLOCKS = [
    f"{name}.{n}" for name in ("blocks", "txtfusion.layerwise_blocks", "txtfusion.refiner_blocks") for n in (0, 1)
]
ORIGINAL = (*TOP, *(f"{block}.{layer}" for block in BLOCKS for layer in IN_BLOCKS))
"""Krea's own names of all layers."""


def is_norm(name):
    return name.endswith(("norm", "txtmlp.0"))


@pytest.fixture(scope="module")
def model():
    return small("krea")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_is_found_under_its_own_name(model, scheme):
    for name in layers(model)[0]:
        assert find(SCHEMES[scheme](name)) == Target(part="transformer", modules=(name,)), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_in_krea_s_names_lie_where_diffusers_puts_them(model, scheme):
    original = {
        f"{name}.{'scale' if is_norm(name) else 'weight'}": torch.tensor([float(number)])
        for number, name in enumerate(ORIGINAL)
    }
    wanted = converted(dict(original))
    assert wanted.keys() == {f"{name}.weight" for name in layers(model)[0]}
    found = placed(lambda stem: find(SCHEMES[scheme](stem)), original)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("scheme", ["ComfyUI", "PEFT"])
def test_a_file_means_the_layers_that_diffusers_finds(model, scheme):
    stems = [SCHEMES[scheme](name) for name in ORIGINAL if not is_norm(name)]
    theirs = converted_lora({f"{stem}.lora_A.weight": torch.tensor(float(n)) for n, stem in enumerate(stems)})
    found = {f"transformer.{find(stem).modules[0]}.lora_A.weight": float(n) for n, stem in enumerate(stems)}
    assert found == {name: tensor.item() for name, tensor in theirs.items()}
    assert len(found) == len(layers(model)[1])


@pytest.mark.parametrize(
    "name",
    [
        *("lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.single_blocks.0.linear1"),  # FLUX.1, FLUX.2
        *("transformer.transformer_blocks.0.ff.net.2", "transformer.transformer_blocks.0.attn.add_q_proj"),
        "transformer.transformer_blocks.0.img_mlp.net.2",  # Qwen-Image
        *("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_input_blocks_1_1_proj_in", ""),
        "diffusion_model.last.up",  # which diffusers does not have
    ],
)
def test_names_that_no_layer_has_are_not_found(name):
    assert find(name) is None
