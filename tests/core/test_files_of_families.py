"""Single files of the other families' parts: in diffusers' and their makers' names, in full, in fp8 and as GGUF."""

import itertools

import dit360_core as dit360
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_krea2_transformer_checkpoint_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from dit360_model_krea.original_names import original_name
from random_families import random_klein, random_krea, random_qwen
from safetensors.torch import load_file, save_file
from weight_files import as_gguf, write_gguf

ASKED = {"prompt": "a calm sea", "width": 64, "steps": 1, "seed": 1}
OPTIONS = ("transformer", "vae", "text_encoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family → its folder, the tensors of its parts, and its picture."""
    found = {}
    for name, make in (("klein", lambda: random_klein(layers=4)), ("qwen", random_qwen), ("krea", random_krea)):
        place = tmp_path_factory.mktemp(name)
        make().save_pretrained(place)
        tensors = {
            part: {k: v for file in (place / part).glob("*.safetensors") for k, v in load_file(file).items()}
            for part in OPTIONS
        }
        found[name] = place, tensors, painted(place)[0]
    return found


def painted(place, **options):
    pipe = dit360.load(str(place), device="cpu", precision="fp32", **options)
    return np.asarray(pipe.generate(**ASKED).image).astype(int), pipe


def file_of(place, name, tensors):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, place / f"{name}.safetensors")
    return str(place / f"{name}.safetensors")


FLUX2 = {
    "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2", "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
    "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
}  # fmt: skip
FLUX2_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2", "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}  # fmt: skip
FLUX2_TOP = {
    "x_embedder": "img_in", "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin", "proj_out": "final_layer.linear",
}  # fmt: skip


def flux2_names(tensors):
    """Black Forest Labs'."""
    found, left = {}, dict(tensors)

    def take(ours, theirs):
        leaf = "scale" if "norm" in theirs.rsplit(".", 1)[-1] else "weight"
        found[f"{theirs}.{leaf}"] = left.pop(f"{ours}.weight")

    blocks = {name.rsplit(".", maxsplit=len(name.split(".")) - 2)[0] for name in tensors if "_blocks." in name}
    for block in sorted(blocks):
        single = block.startswith("single")
        theirs = f"{'single' if single else 'double'}_blocks.{block.split('.')[1]}"
        for ours, name in (FLUX2_SINGLE if single else FLUX2).items():
            take(f"{block}.{ours}", f"{theirs}.{name}")
        if not single:
            for who, layers in (("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"))):
                found[f"{theirs}.{who}_attn.qkv.weight"] = torch.cat(
                    [left.pop(f"{block}.attn.{layer}.weight") for layer in layers]
                )
    for ours, name in FLUX2_TOP.items():
        take(ours, name)
    scale, shift = left.pop("norm_out.linear.weight").chunk(2)
    found["final_layer.adaLN_modulation.1.weight"] = torch.cat([shift, scale])
    assert not left
    return {key: tensor.contiguous() for key, tensor in found.items()}


def krea_names(tensors):
    """Krea's."""
    return {
        original_name(name): tensor.flatten() if name.endswith("scale_shift_table") else tensor
        for name, tensor in tensors.items()
    }


def wan_names(tensors):
    """The autoencoder's makers': of all names that they could have, those that diffusers turns into these."""
    ends = [
        *(f"residual.{n}.{leaf}" for n in (0, 2, 3, 6) for leaf in ("gamma", "weight", "bias")), "shortcut.weight",
        "shortcut.bias", "resample.1.weight", "resample.1.bias", "time_conv.weight", "time_conv.bias",
    ]  # fmt: skip
    middle = [
        *(f"middle.{n}.{end}" for n in (0, 2) for end in ends[:12]), "middle.1.norm.gamma",
        *(f"middle.1.{layer}.{leaf}" for layer in ("to_qkv", "proj") for leaf in ("weight", "bias")),
        *(f"{layer}.{leaf}" for layer in ("conv1", "head.0", "head.2") for leaf in ("weight", "bias", "gamma")),
    ]  # fmt: skip
    every = [f"{half}.{name}" for half in ("encoder", "decoder") for name in middle]
    every += [
        f"{half}.{name}.{n}.{end}"
        for (half, name), n, end in itertools.product(
            (("encoder", "downsamples"), ("decoder", "upsamples")), range(20), ends
        )
    ]
    every += [f"conv{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")]
    known = convert_wan_vae_to_diffusers({name: name for name in every})
    return {known[name]: tensor for name, tensor in tensors.items()}


def test_the_names_below_are_those_that_diffusers_knows(models):
    for name, theirs, convert in (
        ("klein", flux2_names, convert_flux2_transformer_checkpoint_to_diffusers),
        ("krea", krea_names, convert_krea2_transformer_checkpoint_to_diffusers),
    ):
        own = models[name][1]["transformer"]
        back = convert(dict(theirs(own)))
        assert back.keys() == own.keys()
        assert all(torch.equal(back[key].flatten(), own[key].flatten()) for key in own)
    vae = models["qwen"][1]["vae"]
    back = convert_wan_vae_to_diffusers(dict(wan_names(vae)))
    assert all(torch.equal(back[key], vae[key]) for key in vae)


MAKERS = {
    "klein": {"transformer": flux2_names},
    "qwen": {"vae": wan_names},
    # The makers of its autoencoder, so small a one, have no name for one of its shortcuts.
    "krea": {"transformer": krea_names},
}
CONTAINERS = {"transformer": "model.diffusion_model.", "vae": "vae."}
READERS = {"klein": "qwen3_4b", "qwen": "qwen25_7b", "krea": "qwen3vl_4b"}


@pytest.mark.parametrize("names", ["diffusers", "makers", "one file"])
@pytest.mark.parametrize("family", MAKERS)
def test_files_in_full_paint_the_models_own_picture(models, tmp_path, family, names):
    place, tensors, plain = models[family]
    held = {part: MAKERS[family].get(part, dict)(own) if names != "diffusers" else own for part, own in tensors.items()}
    if names == "one file":
        before = {**CONTAINERS, "text_encoder": f"text_encoders.{READERS[family]}.transformer."}
        whole = {before[part] + key: tensor for part, own in held.items() for key, tensor in own.items()}
        given = dict.fromkeys(OPTIONS, file_of(tmp_path, "whole", whole))
    else:
        given = {part: file_of(tmp_path, part, own) for part, own in held.items()}
    picture, pipe = painted(place, **given)
    assert np.abs(picture - plain).max() <= 1
    assert pipe.state.quantized == ()


def eight_bits(tensors):
    """The matrices in fp8, and what they mean."""
    small = {
        key: tensor.to(torch.float8_e4m3fn) if tensor.ndim == 2 and key.endswith(".weight") else tensor
        for key, tensor in tensors.items()
    }
    return small, {key: tensor.float() for key, tensor in small.items()}


@pytest.mark.parametrize("family", MAKERS)
def test_what_is_in_fp8_stays_so_and_paints_what_it_means(models, tmp_path, family):
    place, tensors, _ = models[family]
    stored, meant = {}, {}
    for part in ("transformer", "text_encoder"):
        small, full = eight_bits(MAKERS[family].get(part, dict)(tensors[part]))
        stored[part], meant[part] = file_of(tmp_path, part, small), file_of(tmp_path, f"{part}-meant", full)
    right, _ = painted(place, **meant)
    picture, pipe = painted(place, **stored)
    assert np.abs(picture - right).max() <= 1
    kept = {part.part: part.kernels for part in pipe.state.quantized}
    assert set(kept) == {"transformer", "text_encoder"}
    assert all(set(kernels) == {"fp8"} for kernels in kept.values())


@pytest.mark.parametrize("family", MAKERS)
def test_a_gguf_file_paints_what_it_means(models, tmp_path, family):
    place, tensors, _ = models[family]
    own = MAKERS[family].get("transformer", dict)(tensors["transformer"])
    stored = as_gguf({key: tensor.float() for key, tensor in own.items()}, "Q8_0")
    meant = write_gguf(tmp_path / "transformer.gguf", stored)
    right, _ = painted(place, transformer=file_of(tmp_path, "meant", meant))
    picture, pipe = painted(place, transformer=str(tmp_path / "transformer.gguf"))
    assert np.abs(picture - right).max() <= 1
    assert "Q8_0" in pipe.state.quantized[0].kernels
