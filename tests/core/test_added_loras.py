"""LoRAs that are put beside a model that is loaded already, and taken away again."""

import json
import shutil

import dit360_core
import numpy as np
import pytest
import torch
from dit360_core.batching import Batch
from dit360_core.errors import Dit360Error, InputError, ModelError
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.stages import Conditioning
from lora_files import LAYERS, write
from lora_schemes import made
from safetensors.torch import save_file

SMALL = {"width": 64, "height": 32, "steps": 1, "seed": 3}


@pytest.fixture
def pipe():
    return dit360_core.load("tiny")


@pytest.fixture
def words(tiny) -> Conditioning:
    return tiny.encode("a meadow", max_sequence_length=8)


@pytest.fixture
def files(tmp_path, pipe):
    """Two LoRAs of the embedded model: their names in one folder, with other factors in the second."""
    dim = pipe.engine.config.num_attention_heads * pipe.engine.config.attention_head_dim
    made = []
    for name, layers in (("one", None), ("two", dict(zip(LAYERS, reversed(LAYERS), strict=True)))):
        (tmp_path / name).mkdir()
        renamed = layers and {a: a.replace("to_q", "to_v").replace("to_k", "to_q") for a in LAYERS}
        made.append(str(write(tmp_path / name, "peft", dim=dim, layers=renamed)))
    return made


def psnr(a, b):
    off = np.asarray(a.image, float) - np.asarray(b.image, float)
    return 10 * np.log10(255**2 / max(np.square(off).mean(), 1e-6))


def sampled(pipe, words) -> torch.Tensor:
    return pipe.sample(words, **SMALL).tensor


def test_what_was_added_and_taken_away_leaves_nothing_behind(pipe, words, files):
    bare, modules = sampled(pipe, words), [name for name, _ in pipe.engine.denoiser.named_modules()]
    pipe.set_loras([(files[0], 1.0), (files[1], 0.5)])
    both = sampled(pipe, words)
    pipe.set_loras([(files[1], 0.5)])
    second = sampled(pipe, words)
    pipe.set_loras([])
    assert torch.equal(sampled(pipe, words), bare)
    assert [name for name, _ in pipe.engine.denoiser.named_modules()] == modules
    assert not torch.equal(both, second)
    assert not torch.equal(second, bare)


def test_one_beside_is_as_one_that_was_loaded_beside(pipe, words, files):
    pipe.set_loras([(files[0], 0.7)])
    loaded = dit360_core.load("tiny", lora=files[0], lora_mode="adapter", lora_strength=0.7)
    assert torch.equal(sampled(pipe, words), sampled(loaded, words))


def test_the_strengths_of_one_named_twice_add_up_and_cancel(pipe, words, files):
    bare = sampled(pipe, words)
    pipe.set_loras([(files[0], 1.0), (files[0], -0.5)])
    half = sampled(pipe, words)
    pipe.set_loras([(files[0], 0.5)])
    assert torch.equal(sampled(pipe, words), half)
    pipe.set_loras([(files[0], 1.0), (files[0], -1.0)])
    assert torch.equal(sampled(pipe, words), bare)


def test_one_beside_quantized_weights_and_one_that_was_loaded(words, files):
    pipe = dit360_core.load("tiny", quantization_mode="int8", lora=files[1], lora_mode="adapter")
    before = sampled(pipe, words)
    pipe.set_loras([(files[0], 1.0)])
    assert not torch.equal(sampled(pipe, words), before)
    pipe.set_loras([])
    assert torch.equal(sampled(pipe, words), before)


def test_a_transformer_that_is_read_again_gets_them_again(words, files):
    pipe = dit360_core.load("tiny", evict="all")
    bare = sampled(pipe, words)
    pipe.set_loras([(files[0], 1.0)])
    first = sampled(pipe, words)
    assert pipe.engine.pipe.transformer is None
    assert torch.equal(sampled(pipe, words), first)
    assert not torch.equal(first, bare)


def test_the_metadata_tells_of_them(pipe, words, files):
    pipe.set_loras([(files[0], 0.25)])
    used = pipe.sample(words, **SMALL).settings["used"]
    counts = {"modules": 2, "tensors_used": 4, "tensors": 4}
    assert used["added_loras"] == [{"from": files[0], "strength": 0.25, **counts}]


def test_a_file_that_does_not_fit_changes_nothing(pipe, words, files, tmp_path):
    pipe.set_loras([(files[0], 1.0)])
    before = sampled(pipe, words)
    (tmp_path / "wide").mkdir()
    wide = write(tmp_path / "wide", "peft", dim=48)
    with pytest.raises(ModelError, match="made for another model"):
        pipe.set_loras([(files[1], 1.0), (str(wide), 1.0)])
    with pytest.raises(InputError, match="lora_strength is 3"):
        pipe.set_loras([(files[1], 3.0)])
    assert torch.equal(sampled(pipe, words), before)


def test_none_is_put_beside_weights_in_files(files):
    pipe = dit360_core.load("tiny", offload="disk")
    with pytest.raises(InputError, match="offload=disk"):
        pipe.set_loras([(files[0], 1.0)])


def test_a_line_of_a_batch_has_loras_for_its_picture_alone(files, tmp_path):
    lines = [
        {"prompt": "a meadow", "name": "plain.png"},
        {"prompt": "a meadow", "name": "one.png", "lora": f"{files[0]}:0.5|{files[1]}"},
        {"prompt": "a meadow", "name": "beside.png", "lora": ["two/adapter_model.safetensors"]},
        {"prompt": "a meadow", "name": "again.png"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({**line, **SMALL}) for line in lines))
    batch = Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny")
    assert [outcome.error for outcome in batch.run()] == [None] * 4
    made = {line["name"]: Panorama.open(tmp_path / "out" / line["name"]) for line in lines}
    loras = {name: picture.settings["used"].get("added_loras", []) for name, picture in made.items()}
    assert [(lora["from"], lora["strength"]) for lora in loras["one.png"]] == [(files[0], 0.5), (files[1], 1.0)]
    assert [lora["from"] for lora in loras["beside.png"]] == [str(tmp_path / "two" / "adapter_model.safetensors")]
    pixels = {name: picture.image.tobytes() for name, picture in made.items()}
    assert pixels["plain.png"] == pixels["again.png"]
    assert len(set(pixels.values())) == 3
    assert len({item.key for item in batch.items}) == 3
    again = Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny")
    assert not again.missing


def test_what_is_in_a_lora_tells_pictures_apart_and_not_its_name(files, tmp_path):
    (tmp_path / "list.txt").write_text("a meadow\n")
    twin = shutil.copy(files[0], tmp_path / "twin.safetensors")
    one, two = files
    asked = ([f"{one}:0.5"], [f"{twin}:0.5"], [one], [two], [f"{two}:0.5", one], [one, one])
    keys = [Batch(tmp_path / "list.txt", tmp_path / "out", model="tiny", lora=loras).items[0].key for loras in asked]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("nowhere.safetensors", "There is no LoRA nowhere.safetensors"),
        ("one/adapter_model.safetensors:4", "strength of the LoRA .* is 4"),
        (5, "lora must be"),
    ],
)
def test_a_lora_of_a_line_that_cannot_be_is_told_with_the_line(files, tmp_path, given, why):
    (tmp_path / "list.jsonl").write_text(json.dumps({"prompt": "a meadow", "lora": given, **SMALL}))
    with pytest.raises(Dit360Error, match=rf"list\.jsonl, line 1: .*{why}"):
        list(Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny").run())


def test_several_loras_are_fused_as_the_sum_of_what_each_adds_and_beside_it_is_the_same_picture(tmp_path, tiny):
    """Two files that change the same layers, CLIP, T5, biases and norms; fused, beside, and read again when dropped."""
    given = []
    totals = {}
    for seed, (scheme, strength) in enumerate((("kohya", 0.5), ("OneTrainer", -1.0))):
        (tmp_path / scheme).mkdir()
        tensors, truth = made(scheme, seed=seed)
        tensors = {key: value * (1 if key.endswith("alpha") else 0.3) for key, value in tensors.items()}
        if scheme == "kohya":
            tensors["lora_unet_double_blocks_1_img_attn_qkv.diff_b"] = torch.linspace(-0.1, 0.1, 576)
            tensors["lora_unet_double_blocks_0_img_attn_norm_query_norm.diff"] = torch.full((32,), 0.2)
            tensors["lora_te1_text_model_final_layer_norm.diff"] = torch.full((128,), 0.2)
            tensors["lora_te3_encoder_block_0_layer_0_layer_norm.diff"] = torch.full((128,), 0.2)
        save_file(tensors, tmp_path / scheme / "lora.safetensors")
        given.append((tmp_path / scheme / "lora.safetensors", strength))
        for where, delta in truth.items():
            totals[where] = totals.get(where, 0) + strength * 0.09 * delta
    fused, beside, dropped = (
        dit360_core.load("tiny", lora=given, **more) for more in ({}, {"lora_mode": "adapter"}, {"evict": "all"})
    )
    for (part, name), total in totals.items():
        new, old = (getattr(each.engine.pipe, part).get_submodule(name).weight for each in (fused, tiny))
        assert (new - old - total).norm() < 0.01 * total.norm(), (part, name)
    bias = [p.engine.denoiser.get_submodule("transformer_blocks.1.attn.to_v").bias for p in (fused, tiny)]
    assert torch.allclose(bias[0] - bias[1], 0.5 * torch.linspace(-0.1, 0.1, 576)[384:], atol=1e-5)
    pictures = [each.generate("a meadow", **SMALL) for each in (fused, beside, dropped, tiny)]
    assert psnr(*pictures[:2]) > 50 > 40 > psnr(pictures[0], pictures[3])
    assert psnr(pictures[0], pictures[2]) > 60
    used = [picture.settings["used"]["loras"] for picture in pictures]
    assert [[lora["strength"], lora["tensors_used"] == lora["tensors"] > 60] for lora in used[0]] == [
        [0.5, True],
        [-1, True],
    ]
    assert [lora["mode"] for lora in used[1]] == ["adapter"] * 2
    beside.set_lora_strength(0, str(given[0][0]))
    beside.set_lora_strength(0, str(given[1][0]))
    assert beside.generate("a meadow", **SMALL).image.tobytes() == pictures[3].image.tobytes()
    with pytest.raises(InputError, match="There are several LoRAs; name one of: "):
        beside.set_lora_strength(0.5)
