"""LoRAs that are put beside a model that is loaded already, and taken away again."""

import dit360_core
import pytest
import torch
from dit360_core.errors import InputError, ModelError
from dit360_core.stages import Conditioning
from lora_files import LAYERS, write

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


def sampled(pipe, words) -> torch.Tensor:
    return pipe.sample(words, **SMALL).tensor


def test_what_was_added_and_taken_away_leaves_nothing_behind(pipe, words, files):
    bare, modules = sampled(pipe, words), [name for name, _ in pipe.engine.transformer.named_modules()]
    pipe.set_loras([(files[0], 1.0), (files[1], 0.5)])
    both = sampled(pipe, words)
    pipe.set_loras([(files[1], 0.5)])
    second = sampled(pipe, words)
    pipe.set_loras([])
    assert torch.equal(sampled(pipe, words), bare)
    assert [name for name, _ in pipe.engine.transformer.named_modules()] == modules
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
    assert used["added_loras"] == [{"from": files[0], "strength": 0.25}]


def test_a_file_that_does_not_fit_changes_nothing(pipe, words, files, tmp_path):
    pipe.set_loras([(files[0], 1.0)])
    before = sampled(pipe, words)
    (tmp_path / "wide").mkdir()
    wide = write(tmp_path / "wide", "peft", dim=48)
    with pytest.raises(ModelError, match="another model"):
        pipe.set_loras([(files[1], 1.0), (str(wide), 1.0)])
    with pytest.raises(InputError, match="lora_strength is 3"):
        pipe.set_loras([(files[1], 3.0)])
    assert torch.equal(sampled(pipe, words), before)


def test_none_is_put_beside_weights_in_files(files):
    pipe = dit360_core.load("tiny", offload="disk")
    with pytest.raises(InputError, match="offload=disk"):
        pipe.set_loras([(files[0], 1.0)])
