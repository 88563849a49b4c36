"""Layers of FLUX.2 are found in the names of every trainer, and mean what diffusers' own conversion makes of them."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_flux2_lora_to_diffusers as converted_lora
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers as converted
from dit360_core.models.architecture import Target
from dit360_model_flux2.lora_names import find
from layer_names import SCHEMES, layers, placed, small

DIM, MLP = 32, 96


@pytest.fixture(scope="module")
def model():
    return small("flux2")


@pytest.fixture(scope="module")
def original():
    """Weights in the names of Black Forest Labs, of the width of the small model."""
    shapes = {
        "img_in": (DIM, 16), "txt_in": (DIM, 15360), "time_in.in_layer": (DIM, 256), "time_in.out_layer": (DIM, DIM),
        "guidance_in.in_layer": (DIM, 256), "guidance_in.out_layer": (DIM, DIM),
        "double_stream_modulation_img.lin": (6 * DIM, DIM), "double_stream_modulation_txt.lin": (6 * DIM, DIM),
        "single_stream_modulation.lin": (3 * DIM, DIM), "final_layer.linear": (16, DIM),
        "final_layer.adaLN_modulation.1": (2 * DIM, DIM),
    }  # fmt: skip
    for block in range(2):
        for side in ("img", "txt"):
            of = f"double_blocks.{block}.{side}"
            shapes |= {
                f"{of}_attn.qkv": (3 * DIM, DIM), f"{of}_attn.proj": (DIM, DIM), f"{of}_mlp.0": (2 * MLP, DIM),
                f"{of}_mlp.2": (DIM, MLP), f"{of}_attn.norm.query_norm": (16,), f"{of}_attn.norm.key_norm": (16,),
            }  # fmt: skip
        of = f"single_blocks.{block}"
        shapes |= {
            f"{of}.linear1": (3 * DIM + 2 * MLP, DIM), f"{of}.linear2": (DIM, DIM + MLP),
            f"{of}.norm.query_norm": (16,), f"{of}.norm.key_norm": (16,),
        }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ends = {1: "scale", 2: "weight"}
    return {f"{name}.{ends[len(s)]}": torch.randn(s, generator=generator) for name, s in shapes.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_is_found_under_its_own_name(model, scheme):
    for name in layers(model)[0]:
        assert find(SCHEMES[scheme](name)) == Target(part="transformer", modules=(name,)), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_in_the_names_of_black_forest_labs_lie_where_diffusers_puts_them(model, original, scheme):
    wanted = converted(dict(original))
    assert wanted.keys() == model.state_dict().keys()
    found = placed(lambda stem: find(SCHEMES[scheme](stem)), original)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_factors_lie_where_diffusers_puts_them_but_for_halves_that_it_swaps_in_weights_alone(original):
    """B·A of a file of AI-toolkit, whose q, k and v share A."""
    file, generator = {}, torch.Generator().manual_seed(1)
    for key in (key.removesuffix(".weight") for key in original if key.endswith(".weight")):
        rows, columns = original[f"{key}.weight"].shape
        file[f"diffusion_model.{key}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
        file[f"diffusion_model.{key}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    stems = sorted({key.rpartition(".lora_")[0] for key in file})
    deltas = {f"{s}.weight": file[f"{s}.lora_B.weight"] @ file[f"{s}.lora_A.weight"] for s in stems}
    theirs = converted_lora(file)
    found = placed(find, deltas)
    assert {f"transformer.{name.removesuffix('.weight')}" for name in found} == {
        k.rpartition(".lora_")[0] for k in theirs
    }
    for name, delta in found.items():
        at = f"transformer.{name.removesuffix('.weight')}"
        wanted = theirs[f"{at}.lora_B.weight"] @ theirs[f"{at}.lora_A.weight"]
        if at.endswith("norm_out.linear"):
            wanted = torch.cat([*reversed(wanted.chunk(2))])
        assert torch.allclose(delta, wanted, atol=1e-5), name


def test_fused_names_of_diffusers_and_shortened_ones_are_found():
    qkv = tuple(f"transformer_blocks.1.attn.to_{x}" for x in "qkv")
    assert find("transformer.transformer_blocks.1.attn.to_qkv") == Target(part="transformer", modules=qkv)
    assert find("diffusion_model.sformer_blocks.1.attn.to_q") == Target(part="transformer", modules=qkv[:1])


@pytest.mark.parametrize(
    "name",
    [
        *("lora_unet_double_blocks_0_img_mod_lin", "diffusion_model.single_blocks.0.modulation.lin"),  # FLUX.1
        *("transformer.transformer_blocks.0.norm1.linear", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        *("transformer.transformer_blocks.0.img_mlp.net.2", "diffusion_model.blocks.0.attn.wq"),  # Qwen-Image, Krea 2
        *("lora_unet_input_blocks_1_1_proj_in", "double_blocks.x.img_attn.qkv", ""),
    ],
)
def test_names_of_other_families_are_not_found(name):
    assert find(name) is None
