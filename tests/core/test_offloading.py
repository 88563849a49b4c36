"""Where weights wait changes no number: offloading by blocks and to files, eviction, compiled blocks."""

import gc
import shutil
import weakref

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.residency.placement import displace, into_pinned_memory, place
from dit360_core.pipeline.pipeline import Pipeline
from lora_files import write
from random_models import random_conditioning, random_flux

PICTURE = {"prompt": "a castle", "width": 64, "steps": 2, "seed": 1}


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
        place(pipe.engine.pipe, FLUX, offload, torch.device("cpu"))
        hooked = [name for name, module in pipe.engine.denoiser.named_modules() if "_diffusers_hook" in vars(module)]
        assert bool(hooked) == (offload == "group")
        assert same(pipe.generate(**PICTURE), plain)
        displace(pipe.engine.pipe, FLUX)
        assert same(pipe.generate(**PICTURE), plain)


def test_blocks_in_files_leave_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipe = dit360.load("tiny", device="cpu", offload="disk")
    assert list(tmp_path.rglob("*.safetensors"))
    del pipe
    gc.collect()
    # PyTorch's compiler may make its cache there when it is imported.
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")]


def test_evicted_parts_are_freed_at_once():
    """diffusers' hooks and their module hold each other: letting go is not enough."""
    pipe = dit360.load("tiny", device="cpu", evict="all")
    weights = []

    def look(*_):
        weights.append(weakref.ref(pipe.engine.denoiser.x_embedder.weight))

    gc.disable()
    try:
        pipe.sample(pipe.encode("a castle"), width=64, steps=1, seed=1, progress=look)
        assert weights
        assert weights[0]() is None
    finally:
        gc.enable()


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
    pipes = [dit360.load("tiny", evict=evict, **options) for evict in ("none", "all")]
    assert same(*(pipe.generate(**PICTURE) for pipe in pipes))
    kept, evicted = ({part.part: part.bytes for part in pipe.state.quantized} for pipe in pipes)
    assert kept == evicted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evict": "all", "offload": "disk"}, "evict=all has one part in memory at a time"),
        ({"evict": "text", "offload": "disk"}, "drops the text encoder that offload=disk keeps"),
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
    lie = []  # where weights lie that meet one vector: a BLAS may round by that
    for name, module in parts.engine.denoiser.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith("norm1.linear"):
            module.register_forward_hook(lambda module, *_: lie.append(module.weight.data_ptr() % 64))
    assert torch.equal(*(p.sample(random_conditioning(), **options).tensor for p in (whole, parts)))
    assert lie
    assert not any(lie)
    with pytest.raises(dit360.InputError, match="offloaded already"):
        Pipeline.from_diffusers(parts.engine.pipe, offload="disk")


def test_a_pipeline_that_somebody_offloaded_is_told_and_left_alone():
    flux = random_flux()
    flux.enable_model_cpu_offload(device="cpu")
    pipe = Pipeline.from_diffusers(flux)
    assert pipe.state.offload == "model"
    assert pipe.engine.residency.foreign
    used = Pipeline.from_diffusers(random_flux())  # one that has merely been used is not offloaded
    used.sample(random_conditioning(), width=64, steps=1, seed=1)
    Pipeline.from_diffusers(used.engine.pipe, offload="disk")


def test_weights_move_into_a_few_large_blocks_of_memory(monkeypatch):
    monkeypatch.setattr("dit360_core.models.residency.placement.ARENA", 2**20)
    transformer = random_flux(heads=8).transformer
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    into_pinned_memory(transformer, pin=False)
    after = transformer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in after.values()}
    whole = sum(tensor.nbytes for tensor in before.values())
    assert len(storages) < len(before)
    assert sum(storages.values()) <= whole + 2**20 * (1 + whole // 2**20)


def test_a_compiler_that_is_missing_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(dit360.InputError, match=r"needs a C\+\+ compiler.*install g\+\+"):
        dit360.load("tiny", device="cpu", compile_blocks=True)


def test_disk_that_is_full_is_told_before_anything_is_written(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 2**20}))
    with pytest.raises(dit360.InputError, match=r"offload=disk needs \d+ MiB in .*set TMPDIR"):
        dit360.load("tiny", device="cpu", offload="disk")


def compiled_as_plain():
    options = {"width": 64, "steps": 2, "seed": 1, "circular_padding": 1}
    plain, compiled = (Pipeline.from_diffusers(random_flux(), compile_blocks=c) for c in (False, True))
    one, other = (p.sample(random_conditioning(), **options).tensor for p in (plain, compiled))
    assert (one - other).abs().max() <= 1e-5


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_make_the_same_picture():
    compiled_as_plain()


@pytest.mark.skipif(not shutil.which("g++"), reason="compile_blocks needs a C++ compiler")
def test_blocks_are_traced_whole_and_make_the_same_picture(monkeypatch):
    """All of compiling but what PyTorch then writes in C++, for which its compiler takes half a minute."""
    traced = []

    def compile_fx(graph, inputs, **_):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    torch.compiler.reset()  # nor is anything found that was compiled before
    compiled_as_plain()
    torch.compiler.reset()
    assert len(traced) >= 2  # a block of either kind
