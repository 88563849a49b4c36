"""LoRA: fused exactly, in the formats people have, and refused when it would do nothing."""

import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.lora import fusing
from dit360_core.models.lora.beside import Strength
from dit360_core.models.lora.file import read
from dit360_core.models.lora.finding import locate
from dit360_core.models.lora.fitting import fitted
from dit360_core.models.lora.fusing import Applied
from lora_files import LAYERS, RANK, factors, write
from random_models import random_flux
from safetensors.torch import save_file


def weights(pipe):
    layers = dict(pipe.transformer.named_modules())
    return {name: layers[name].weight.detach().clone() for name in LAYERS}


def fuse(pipe, place, strength=1.0):
    """Fuses a LoRA into a transformer. Returns how many layers it changes, and what is told of it."""
    found = fitted(read(locate(str(place)), FLUX), {"transformer": pipe.transformer})
    return fusing.fuse(pipe.transformer, "transformer", [Applied(lora=found, shared=Strength(strength))]), found.remarks


@pytest.mark.parametrize("style", ["peft", "plain", "diffusers"])
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_fusing_adds_strength_times_b_a_to_the_weights(tmp_path, style, strength):
    pipe = random_flux()
    before, everything = weights(pipe), {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    assert fuse(pipe, write(tmp_path, style), strength) == (len(LAYERS), ())
    for name, (down, up) in factors().items():
        assert torch.allclose(weights(pipe)[name], before[name] + strength * up @ down, atol=1e-6)
    after = pipe.transformer.state_dict()
    assert list(after) == list(everything)  # nothing of the adapter stays behind
    untouched = [k for k in after if not any(k.startswith(name) for name in LAYERS)]
    assert all(torch.equal(after[k], everything[k]) for k in untouched)


def test_alpha_of_the_adapter_config_scales_the_update(tmp_path):
    pipe = random_flux()
    before = weights(pipe)
    write(tmp_path, "peft", alpha=2 * RANK)
    fuse(pipe, tmp_path)
    for name, (down, up) in factors().items():
        assert torch.allclose(weights(pipe)[name], before[name] + 2 * up @ down, atol=1e-6)


def test_a_lora_whose_keys_match_nothing_is_refused(tmp_path):
    names = {name: f"transformer_blocks.{i + 90}.attn.to_q" for i, name in enumerate(LAYERS)}
    with pytest.raises(ModelError, match=r"does not fit this model: none of its 2 layers .*the first is 'base_model"):
        fuse(random_flux(), write(tmp_path, "peft", layers=names))


def test_a_lora_that_matches_in_part_is_fused_and_the_rest_told(tmp_path):
    file = write(tmp_path, "diffusers", layers={LAYERS[1]: "single_transformer_blocks.90.attn.to_k"})
    changed, (told,) = fuse(random_flux(), file)
    assert changed == 1
    assert "of its 4 tensors 2 are for layers that this model does not have (such as 'transformer.single" in told


def test_a_lora_of_another_width_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"was made for another model: its layer .* is of the shape 48×48, and this"):
        fuse(random_flux(), write(tmp_path, "diffusers", dim=48))


def test_a_file_without_lora_tensors_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="holds no LoRA"):
        locate(str(tmp_path / "x.safetensors"))


def test_several_files_in_a_folder_must_be_told_apart(tmp_path):
    for name in ("a", "b"):
        save_file({"x.lora_A.weight": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="holds 2 safetensors files"):
        locate(str(tmp_path))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_pickles_are_refused(tmp_path, suffix):
    (tmp_path / f"lora{suffix}").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="pickle"):
        locate(str(tmp_path / f"lora{suffix}"))
    with pytest.raises(ModelError, match="pickle"):
        locate(str(tmp_path))


def test_a_lora_given_when_loading_changes_the_picture_and_is_told(tmp_path):
    """Through the whole way of loading, on the embedded model."""
    import dit360_core

    picture = {"prompt": "a calm sea", "seed": 1, "width": 64, "steps": 2}
    plain = dit360_core.load("tiny")
    width = plain.engine.denoiser.inner_dim
    file = write(tmp_path, "peft", dim=width)
    strong, none = (dit360_core.load("tiny", lora=str(file), lora_strength=s) for s in (2.0, 0.0))
    assert [given.modules for given in strong.state.loras] == [len(LAYERS)]
    pictures = [p.generate(**picture) for p in (plain, strong, none)]
    assert pictures[0].image.tobytes() != pictures[1].image.tobytes()
    assert pictures[0].image.tobytes() == pictures[2].image.tobytes()
    assert pictures[1].settings["used"]["loras"] == [
        {
            "from": str(file),
            "strength": 2.0,
            "own": False,
            "modules": len(LAYERS),
            "tensors_used": 4,
            "tensors": 4,
            "mode": "fuse",
        }
    ]
