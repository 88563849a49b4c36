"""Memory that runs out: what is done about it changes no number, and the last word helps."""

import logging
import sys

import dit360_core as dit360
import numpy as np
import pytest
import torch
from command_line import python
from dit360_core.plugins.builtin.attention_kernels import eager
from dit360_core.plugins.offers import AttentionBackend
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.vae import decode_whole
from dit360_core.system.memory import OutOfMemory
from invented_plugins import installed, offering

PICTURE = {"prompt": "a castle", "width": 128, "steps": 2, "seed": 1}


def on_trial():
    frame = sys._getframe()
    while frame and frame.f_globals.get("__name__") != "dit360_core.planning.probe":
        frame = frame.f_back
    return frame is not None


def kernel(fails, *, stores_scores=False, error=torch.OutOfMemoryError):
    """A registry whose best attention fails where ``fails(rows, calls)`` says so, its trials aside."""
    calls = []

    def attend(q, k, v, *, scale):
        if not on_trial():
            calls.append(q.shape[1])
            if fails(q.shape[1], len(calls)):
                raise error("CUDA out of memory. Tried to allocate 7.00 GiB")
        return eager(q, k, v, scale=scale)

    offer = AttentionBackend(name="scarce", api=1, priority=99, stores_scores=stores_scores, load=lambda: attend)
    return Registry(entry_points=installed("scarce", offering(offer)))


def loaded(fails, *, stores_scores=False, **options):
    return dit360.load("tiny", device="cpu", registry=kernel(fails, stores_scores=stores_scores), **options)


@pytest.fixture(scope="module")
def plain():
    return dit360.load("tiny", device="cpu", attention_backend="eager").generate(**PICTURE)


def near(one, other) -> int:
    return int(np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max())


def test_slices_are_taken_where_scores_do_not_fit_and_stay(caplog):
    large = {**PICTURE, "width": 512, "steps": 1}
    plain = dit360.load("tiny", device="cpu", attention_backend="eager").generate(**large)
    pipe = loaded(lambda rows, _: rows > 256, stores_scores=True)
    with caplog.at_level(logging.WARNING):
        picture = pipe.generate(**large)
    assert near(picture, plain) <= 1
    assert picture.settings["used"]["attention_slice_size"] == pipe.state.attention_slice_size == 256
    assert [line.split(": ")[1] for line in pipe.given_up][-1] == "attention takes 256 query rows at a time"
    assert "it goes on from there" in caplog.text
    caplog.clear()
    assert near(pipe.generate(**large), plain) <= 1
    assert not caplog.records


def test_it_goes_on_from_the_latents_it_had():
    """A failure in the middle costs that evaluation, and no number."""
    whole = dit360.load("tiny", device="cpu", attention_backend="eager")
    options = {"width": 128, "steps": 4, "seed": 1, "scheduler_type": "unipc"}
    right = whole.sample(whole.encode("a castle"), **options)
    failed = []

    def once(rows, calls):
        if calls < 14 or failed:
            return False
        failed.append(calls)
        return True

    pipe = loaded(once)
    steps = []
    found = pipe.sample(pipe.encode("a castle"), progress=lambda done, _: steps.append(done), **options)
    assert failed
    assert torch.equal(found.tensor, right.tensor)
    assert steps == [1, 2, 3, 4]
    assert pipe.given_up == ("sampling 128×64: memory that was freed is given back",)


def test_parts_are_dropped_and_blocks_go_to_files_before_it_gives_up(plain):
    """Rung by rung, as a CPU has them; each makes the same picture."""
    for rungs, evict, offload in ((1, "text", "none"), (3, "all", "disk")):
        failed = []

        def until(rows, calls, rungs=rungs, failed=failed):
            failed.append(calls)
            return len(failed) <= rungs + 1

        pipe = loaded(until)
        picture = pipe.generate(**PICTURE)
        assert near(picture, plain) == 0
        assert (pipe.state.evict, pipe.state.offload) == (evict, offload), pipe.given_up


def test_after_the_last_rung_one_error_says_what_would_fit():
    pipe = loaded(lambda *_: True)
    with pytest.raises(OutOfMemory) as told:
        pipe.generate(**PICTURE)
    text = str(told.value)
    assert "too little memory on the cpu for sampling 128×64" in text
    assert "are needed" in text
    assert "vram=auto" in text
    assert told.value.__cause__ is None


def test_a_tap_that_makes_room_does_not_take_what_sampling_needs(plain):
    failing = iter([False] * 3 + [True] * 3 + [False] * 99)
    pipe = dit360.load("tiny", device="cpu", attention_backend="eager")
    seen = []

    def scarce(vae, latents):
        if next(failing):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return decode_whole(vae, latents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit360_core.plugins.builtin.tiling_others.decode_whole", scarce)
        picture = pipe.generate(
            **{**PICTURE, "steps": 6},
            tiling_backend="whole",
            tap=lambda done, steps, latents: seen.append(pipe.decode(latents, tiling_backend="whole")),
        )
    assert len(seen) == 6
    assert pipe.state.evict == "all"
    right = dit360.load("tiny", device="cpu", attention_backend="eager").generate(**{**PICTURE, "steps": 6})
    assert near(picture, right) == 0
    assert picture.settings["used"]["out_of_memory"]
    assert "decided" not in picture.settings["used"]


def test_slices_of_one_pictures_kernel_are_not_the_pipelines():
    registry = kernel(lambda rows, _: rows > 256, stores_scores=True)
    pipe = dit360.load("tiny", device="cpu", attention_backend="sdpa", registry=registry)
    large = {**PICTURE, "width": 512, "steps": 1}
    assert pipe.generate(**large, attention_backend="scarce").settings["used"]["attention_slice_size"] == 256
    assert pipe.generate(**large).settings["used"]["attention_slice_size"] == 0


def test_other_errors_climb_nothing():
    registry = kernel(lambda _, calls: calls > 4, error=ValueError)
    pipe = dit360.load("tiny", device="cpu", registry=registry)
    with pytest.raises(dit360.Dit360Error, match="A plugin failed while sampling"):
        pipe.generate(**PICTURE)
    assert pipe.given_up == ()


# Address space as a stand-in for a full machine: the allocator itself refuses.
_SCARCE = """
import gc, resource, sys, torch
import dit360_core as dit360
from dit360_core.system.memory import OutOfMemory, give_back_freed_memory, used_memory

torch.set_num_threads(1)
size = {"width": 1024, "steps": 1, "seed": 1}
pipe = dit360.load("tiny", device="cpu", attention_backend="eager")
conditioning = pipe.encode("a castle")
pipe.sample(conditioning, **{**size, "width": 256})
plain = dit360.load("tiny", device="cpu", attention_backend="sdpa").sample(conditioning, **size)
gc.collect()
give_back_freed_memory("cpu")
with open("/proc/self/statm") as statm:
    mapped = int(statm.read().split()[0]) * resource.getpagesize()

def limited(mebibytes):
    resource.setrlimit(resource.RLIMIT_AS, (mapped + mebibytes * 2**20, resource.RLIM_INFINITY))

limited(80)
found = pipe.sample(conditioning, **size)
assert any("query rows" in line for line in pipe.given_up), pipe.given_up
assert (found.tensor - plain.tensor).abs().max() < 1e-4, (found.tensor - plain.tensor).abs().max()
del found
gc.collect()
give_back_freed_memory("cpu")
before = used_memory("cpu")
limited(12)
try:
    pipe.sample(conditioning, **{**size, "width": 2048})
    raise SystemExit("it fitted")
except OutOfMemory as error:
    assert "sampling 2048×1024" in str(error), error
gc.collect()
give_back_freed_memory("cpu")
print((used_memory("cpu") - before) / 2**20)
"""


@pytest.mark.long
def test_a_real_allocator_that_refuses(tmp_path):
    done = python(_SCARCE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) <= 1, "MiB more than before"
