"""Where weights wait changes no number: offloading by blocks and to files, eviction, compiled blocks."""

import gc

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.flux.placement import displace, place
from dit360_core.pipeline import Pipeline
from lora_files import write
from random_models import random_conditioning, random_flux

PICTURE = {"prompt": "a castle", "width": 128, "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def plain(tiny):
    return tiny.generate(**PICTURE)


def same(one, other) -> bool:
    return np.array_equal(np.asarray(one.image), np.asarray(other.image))


def held_by(pipe, *names) -> dict[str, bool]:
    return {name: getattr(pipe.engine.pipe, name) is not None for name in names}


@pytest.mark.parametrize("options", [{"offload": "disk"}, {"evict": "text"}, {"evict": "all"}])
def test_the_picture_is_the_same_wherever_weights_wait(options, plain):
    pipe = dit360.load("tiny", device="cpu", **options)
    for _ in range(2):
        assert same(pipe.generate(**PICTURE), plain)
    told = pipe.generate(**PICTURE).settings["used"]
    assert {name: told[name] for name in options} == options


def test_blocks_that_come_and_go_leave_the_numbers_and_can_be_taken_back(plain):
    """What CUDA does with streams, here between the CPU and itself; then back to where everything was."""
    pipe = dit360.load("tiny", device="cpu")
    for offload in ("text", "group"):
        place(pipe.engine.pipe, offload, torch.device("cpu"))
        hooked = [name for name, module in pipe.engine.transformer.named_modules() if "_diffusers_hook" in vars(module)]
        assert bool(hooked) == (offload == "group")
        assert same(pipe.generate(**PICTURE), plain)
        displace(pipe.engine.pipe)
        assert same(pipe.generate(**PICTURE), plain)


def test_blocks_in_files_leave_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipe = dit360.load("tiny", device="cpu", offload="disk")
    assert list(tmp_path.rglob("*.safetensors"))
    del pipe
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_evicted_parts_are_gone_between_the_stages():
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2")
    pipe = dit360.load("tiny", device="cpu", evict="all")
    only_clip = dict.fromkeys(parts, False) | {"text_encoder": True}
    assert held_by(pipe, *parts) == only_clip
    seen = []
    pipe.generate(**PICTURE, progress=lambda *_: seen.append(held_by(pipe, *parts)))
    assert seen[0] == only_clip | {"transformer": True}
    assert held_by(pipe, *parts) == only_clip
    text = dit360.load("tiny", device="cpu", evict="text")
    text.generate(**PICTURE)
    assert held_by(text, *parts) == dict.fromkeys(parts, True) | {"text_encoder_2": False}


def test_another_seed_of_a_prompt_does_not_read_the_text_encoder_again():
    pipe = dit360.load("tiny", device="cpu", evict="text")
    read, original = [], pipe.engine.residency.read
    pipe.engine.residency.read = lambda name: (read.append(name), original(name))[1]
    for prompt in ("a castle", "a castle", "a lake", "a castle"):
        pipe.encode(prompt)
    assert read == ["text_encoder_2"] * 2


def test_evicted_parts_come_back_with_their_lora_and_quantization(tmp_path):
    lora = str(write(tmp_path, "peft", dim=192))
    options = {"lora": lora, "quantization_mode": "int8", "device": "cpu", "lora_strength": 1.5}
    pictures = [dit360.load("tiny", evict=evict, **options).generate(**PICTURE) for evict in ("none", "all")]
    assert same(*pictures)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evict": "all", "offload": "disk"}, "evict=all has one part in memory at a time"),
        ({"compile_blocks": True, "offload": "disk"}, "compiled blocks cannot be taken apart"),
        ({"offload": "group"}, "use offload=none, offload=disk or evict=all"),
        ({"offload": "disk", "quantization_mode": "int8"}, "packed for a CPU.*use fp8"),
    ],
)
def test_what_cannot_be_had_together_is_one_sentence(options, sentence):
    with pytest.raises(dit360.Dit360Error, match=sentence):
        dit360.load("tiny", device="cpu", **options)


def test_a_pipeline_of_diffusers_is_offloaded_too(plain):
    whole, parts = (Pipeline.from_diffusers(random_flux(), offload=offload) for offload in ("none", "disk"))
    options = {"width": 64, "steps": 2, "seed": 1, "circular_padding": 1}
    assert torch.equal(*(p.sample(random_conditioning(), **options).tensor for p in (whole, parts)))
    with pytest.raises(dit360.InputError, match="transformer is offloaded already"):
        Pipeline.from_diffusers(parts.engine.pipe, offload="disk")


def test_compiled_blocks_make_the_same_picture():
    options = {"width": 64, "steps": 2, "seed": 1, "circular_padding": 1}
    plain, compiled = (Pipeline.from_diffusers(random_flux(), compile_blocks=c) for c in (False, True))
    one, other = (p.sample(random_conditioning(), **options).tensor for p in (plain, compiled))
    assert (one - other).abs().max() <= 1e-5
