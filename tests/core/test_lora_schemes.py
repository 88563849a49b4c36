"""α/r·B·A, added by hand to every weight, is what a LoRA adds in the names of every trainer; nothing is left unsaid."""

import json

import lora_schemes
import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.lora import fitting, keys
from dit360_core.models.lora.file import read
from dit360_core.models.lora.finding import locate
from lora_schemes import ALPHA, IN, RANK, SCHEMES, made, write
from safetensors.torch import save_file

QKV = "double_blocks.1.img_attn.qkv"


@pytest.fixture(scope="session")
def parts(tiny_folder):
    """The embedded model's parts, without weights."""
    return {
        part: FLUX.networks.empty(part, tiny_folder / part)
        for part in ("transformer", "text_encoder", "text_encoder_2")
    }


def fitted(file, parts):
    return fitting.fitted(read(locate(str(file)), FLUX), parts)


def added(found, parts):
    """{(part, layer): what it adds to the weight}, on zeros of the shape that the layer has."""
    return {
        (part, name): factors.added("weight", torch.zeros(parts[part].get_submodule(name).weight.shape))
        for part, layers in found.layers.items()
        for name, factors in layers.items()
    }


def assert_is(found, truth, *, scale=1.0):
    assert set(found) == set(truth)
    for where, wanted in truth.items():
        assert (found[where] - scale * wanted).norm() < 0.01 * scale * wanted.norm(), where


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_added_is_alpha_by_rank_times_b_times_a(tmp_path, parts, scheme):
    file, truth = write(tmp_path, scheme)
    found = fitted(file, parts)
    assert_is(added(found, parts), truth)
    assert found.used == found.tensors == len(made(scheme)[0])
    assert not found.remarks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_factors_may_be_of_any_dtype(tmp_path, parts, dtype):
    file, truth = write(tmp_path, "kohya", dtype=dtype)
    assert_is(added(fitted(file, parts), parts), truth)


# -------------------------------------------------------------------------------------------- alpha beside the tensors


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 12, "r": RANK}, 3.0),
        ({"lora_alpha": 12, "r": RANK, "use_rslora": True}, 6.0),
        ({"lora_alpha": 12, "r": RANK, "peft_type": "LORA", "alpha_pattern": {}}, 3.0),
        ({"r": RANK}, 1.0),
    ],
)
def test_an_adapter_config_scales_the_file_it_belongs_to(tmp_path, parts, config, scale):
    file, truth = write(tmp_path, "PEFT", config=config)
    assert_is(added(fitted(file, parts), parts), truth, scale=scale)
    assert_is(added(fitted(tmp_path, parts), parts), truth, scale=scale)  # as a folder


def test_an_adapter_config_of_another_file_scales_nothing(tmp_path, parts):
    write(tmp_path, "PEFT", config={"lora_alpha": 64, "r": RANK})
    for scheme in ("diffusers", "kohya", "ComfyUI, lora_A", "XLabs"):
        file, truth = write(tmp_path, scheme)
        assert_is(added(fitted(file, parts), parts), truth)


def test_the_file_s_own_header_wins(tmp_path, parts):
    header = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.r": RANK})}
    file, truth = write(tmp_path, "PEFT", config={"lora_alpha": 64, "r": RANK}, header=header)
    assert_is(added(fitted(file, parts), parts), truth, scale=2.0)


def test_layers_may_have_an_alpha_of_their_own(tmp_path, parts):
    config = {"lora_alpha": RANK, "r": RANK, "alpha_pattern": {"proj_out": 3 * RANK, "attn.to_q": 2 * RANK}}
    file, truth = write(tmp_path, "PEFT", config=config)
    scales = {"proj_out": 3.0, "to_q": 2.0}
    wanted = {where: scales.get(where[1].rpartition(".")[2], 1.0) * delta for where, delta in truth.items()}
    assert_is(added(fitted(file, parts), parts), wanted)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('{"lora_alpha": %s, "r": 4}' % ("1" + "0" * 400), "alpha is a number of over 20 digits"),
        ('{"lora_alpha": %s, "r": 4}' % ("1" + "0" * 5000), "is not readable JSON"),
        ('{"lora_alpha": 1e999, "r": 4}', "alpha is inf"),
        ('{"lora_alpha": NaN, "r": 4}', "alpha is nan"),
        ('{"lora_alpha": "16", "r": 4}', "alpha is '16'"),
        ('{"lora_alpha": true, "r": 4}', "alpha is True"),
        ('{"lora_alpha": -1, "r": 4}', "alpha is -1"),
        ('{"lora_alpha": 16, "r": 0}', "the rank is 0"),
        ('{"lora_alpha": 16, "r": 4, "use_dora": true}', "is a DoRA"),
        ('{"peft_type": "LOKR", "r": 4}', "of the kind 'LOKR'"),
        ('{"lora_alpha": 16, "alpha_pattern": [1]}', "alpha_pattern that is no object"),
        ("[]", "object"),
    ],
)
def test_settings_that_no_lora_has_are_one_sentence(tmp_path, parts, config, why):
    file, _ = write(tmp_path, "PEFT", config={})
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match=why):
        fitted(file, parts)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lora_down": torch.zeros(0, 192), "lora_up": torch.zeros(576, 0)}, "factors of rank 0"),
        ({"alpha": torch.tensor(float("inf"))}, "alpha is inf"),
        ({"alpha": torch.tensor([1.0, 2.0])}, "2 numbers as the alpha"),
        ({"lora_down": torch.full((RANK, 192), float("nan"))}, "not finite"),
        ({"lora_down": torch.zeros(RANK + 1, 192)}, r"do not fit together \(\(5, 192\) and \(576, 4\)\)"),
        ({"lora_down": torch.zeros(RANK, 3072)}, r"made for another model.*576×3072.*576×192"),
        ({"lora_up": torch.zeros(9216, RANK)}, r"made for another model.*9216×192.*576×192"),
        ({"lora_down": torch.zeros(RANK, 192, dtype=torch.int8)}, r"torch\.int8 numbers"),
        ({"lora_up": None}, "only one factor"),
        ({"diff_b": torch.zeros(3)}, "a bias .* that does not fit"),
        ({"dora_scale": torch.ones(576)}, "is a DoRA"),
        ({"magnitude": torch.ones(576)}, "is a DoRA"),
        ({"lokr_w1": torch.ones(4, 4)}, r"is a LoKr \(LyCORIS\), and no LoRA of plain factors"),
        ({"hada_w1_a": torch.ones(4, 4)}, r"is a LoHa \(LyCORIS\)"),
        ({"oft_blocks": torch.ones(4, 4)}, "is an OFT"),
        ({"a1.weight": torch.ones(4, 4)}, "is a GLoRA"),
    ],
)
def test_a_file_that_is_wrong_in_one_layer_is_one_sentence(tmp_path, parts, change, why):
    tensors, _ = made("kohya")
    for end, tensor in change.items():
        key = f"lora_unet_double_blocks_1_img_attn_qkv.{end}"
        key = next((name for name in tensors if name.startswith(key)), key)
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=why) as caught:
        fitted(tmp_path / "lora.safetensors", parts)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- more than a product


def test_biases_differences_and_norms_are_added_too(tmp_path, parts):
    """What LyCORIS and ComfyUI write beside the factors, in layers that are one here, several, or norms."""
    generator = torch.Generator().manual_seed(1)
    bias, out_bias = torch.randn(576, generator=generator), torch.randn(192, generator=generator)
    norm, whole = torch.randn(32, generator=generator), torch.randn(192, IN, generator=generator)
    tensors, truth = made("ComfyUI")
    tensors |= {
        f"diffusion_model.{QKV}.diff_b": bias,
        "diffusion_model.double_blocks.1.img_attn.proj.lora_up.bias": out_bias,
        "diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff": norm,
        "diffusion_model.single_blocks.0.norm.key_norm.scale.diff": norm.clone(),
        "lora_unet_img_in.diff": whole,
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.diff": torch.ones(128),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    found = fitted(tmp_path / "lora.safetensors", parts)
    assert (found.used, found.remarks) == (len(tensors), ())
    truth |= {
        ("transformer", "transformer_blocks.0.attn.norm_q"): norm,
        ("transformer", "single_transformer_blocks.0.attn.norm_k"): norm,
        ("text_encoder", "final_layer_norm"): torch.ones(128),
    }
    truth["transformer", "x_embedder"] = truth["transformer", "x_embedder"] + whole
    assert_is(added(found, parts), truth)
    biases = {
        name: factors.added("bias", torch.zeros(192))
        for name, factors in found.of("transformer").items()
        if factors.bias is not None
    }
    wanted = dict(zip((f"transformer_blocks.1.attn.to_{x}" for x in "qkv"), bias.split(192), strict=True))
    wanted["transformer_blocks.1.attn.to_out.0"] = ALPHA / RANK * out_bias
    assert biases.keys() == wanted.keys()
    assert all(torch.allclose(biases[name], wanted[name]) for name in wanted)


def test_weights_of_its_own_stand_in_the_place_of_the_layer_s(tmp_path, parts):
    """As Black Forest Labs' own LoRAs hold norms, and PEFT modules_to_save."""
    tensors, truth = made("Black Forest Labs")
    tensors |= {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.full((32,), 2.0),
        "single_blocks.0.norm.query_norm.scale": torch.full((32,), 3.0),
        "img_in.lora_B.bias": torch.ones(192),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    found = fitted(tmp_path / "lora.safetensors", parts)
    of = found.of("transformer")
    ones = torch.ones(32)
    assert torch.equal(of["transformer_blocks.0.attn.norm_k"].added("weight", ones), torch.full((32,), 1.0))
    assert torch.equal(of["single_transformer_blocks.0.attn.norm_q"].added("weight", ones), torch.full((32,), 2.0))
    assert torch.equal(of["x_embedder"].added("bias", torch.zeros(192)), torch.ones(192))
    assert found.used == len(tensors) == len(made("Black Forest Labs")[0]) + 3
    assert len(added(found, parts)) == len(truth) + 2
    with pytest.raises(ModelError, match="cannot be kept beside them; use lora_mode=fuse"):
        found.check_beside()


# ----------------------------------------------------------------------------------------- what is not used is told


def test_what_is_not_used_is_told_with_number_and_example(tmp_path, parts):
    tensors, truth = made("kohya")
    more = {
        "lora_unet_double_blocks_90_img_attn_qkv.lora_down.weight": torch.zeros(4, 192),
        "lora_unet_double_blocks_90_img_attn_qkv.lora_up.weight": torch.zeros(576, 4),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 192),
        "bundle_emb.style.t5": torch.zeros(2),
        "lora_unet_single_blocks_0_linear2.alpha": torch.tensor(4.0),
        "lora_unet_double_blocks_1_img_attn_norm_query_norm.diff_b": torch.zeros(32),
    }
    save_file(tensors | more, tmp_path / "lora.safetensors")
    found = fitted(tmp_path / "lora.safetensors", parts)
    assert_is({where: delta for where, delta in added(found, parts).items() if delta is not None}, truth)
    assert (found.used, found.tensors) == (len(tensors), len(tensors) + len(more))
    (told,) = found.remarks
    assert f"of its {len(tensors) + 6} tensors" in told
    assert told.endswith(f"the other {len(tensors)} are used.")
    for part in (
        "2 have names of no layer of FLUX, CLIP or T5 (such as '",
        "1 are alphas of layers without factors (such as 'lora_unet_single_blocks_0_linear2.alpha')",
        "2 are for layers that this model does not have (such as 'lora_unet_double_blocks_90_img_attn_qkv.lora_down.",
        "1 are biases of layers that have none in this model",
    ):
        assert part in told


def test_the_same_layer_under_two_names_counts_once(tmp_path, parts):
    tensors, truth = made("diffusers")
    twin = {
        key.replace("transformer.", "base_model.model.", 1): value.clone()
        for key, value in tensors.items()
        if key.startswith("transformer.transformer_blocks.1.attn.to_q")
    }
    save_file(tensors | twin, tmp_path / "lora.safetensors")
    found = fitted(tmp_path / "lora.safetensors", parts)
    assert_is(added(found, parts), truth)
    assert "2 are there a second time under another name and count once" in found.remarks[0]


def test_an_alpha_that_only_kohya_s_header_has_is_told(tmp_path, parts):
    file, truth = write(tmp_path, "ComfyUI, lora_A", header={"ss_network_alpha": "1", "ss_network_dim": "4"})
    found = fitted(file, parts)
    assert_is(added(found, parts), truth)
    assert "header says alpha 1 for rank 4" in found.remarks[0]


def test_a_lora_of_another_family_is_told_by_its_first_tensor(tmp_path, parts):
    other = {
        "lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.zeros(4, 8),
        "lora_unet_input_blocks_1_1_proj_in.lora_up.weight": torch.zeros(8, 4),
    }
    save_file(other, tmp_path / "sdxl.safetensors")
    with pytest.raises(
        ModelError, match=r"holds no LoRA for FLUX\.1: none of its 2 tensors .*the first is 'lora_unet_in"
    ):
        fitted(tmp_path / "sdxl.safetensors", parts)


def test_a_lora_of_another_family_with_a_text_encoder_that_flux_has_too_is_refused(tmp_path, parts):
    other, _ = made("kohya")
    other = {key: value for key, value in other.items() if key.startswith("lora_te1_")}
    other["lora_unet_input_blocks_1_1_proj_in.lora_down.weight"] = torch.zeros(4, 8)
    save_file(other, tmp_path / "sdxl.safetensors")
    with pytest.raises(ModelError, match=r"another family of models: none of its 1 tensors .*'lora_unet_input"):
        fitted(tmp_path / "sdxl.safetensors", parts)


def test_several_adapters_in_one_file_are_refused(tmp_path, parts):
    tensors = {
        f"base_model.model.x_embedder.lora_{a}.{name}.weight": torch.zeros(4, IN) if a == "A" else torch.zeros(192, 4)
        for name in ("one", "two")
        for a in "AB"
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"holds several adapters \('one', 'two'\)"):
        fitted(tmp_path / "lora.safetensors", parts)


def test_every_scheme_that_is_documented_is_tried():
    assert len(lora_schemes.SCHEMES) == 18


@pytest.mark.parametrize("layer", ["ff.down", "ff.up", "mlp.down"])
@pytest.mark.parametrize(
    ("way", "ending"),
    [
        ("down", ".lora_A.weight"), ("up", ".lora_B.weight"), ("down", ".lora_down.weight"), ("up", ".lora.up.weight"),
        ("up", ".lora_B.default.weight"),
    ],
)  # fmt: skip
def test_a_layer_that_is_itself_called_down_or_up_is_no_factor(layer, way, ending):
    parsed = keys.parse(f"transformer_blocks.0.{layer}{ending}")
    assert (parsed.stem, parsed.kind) == (f"transformer_blocks.0.{layer}", way)
