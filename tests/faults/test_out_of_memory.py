"""Memory that runs out, rung by rung in one long-lived pipeline: the same picture, nothing left behind, and on it goes.

The allocator's error is its own: more is asked of it than there are addresses.
"""

import gc

import dit360_core
import numpy as np
import pytest
import torch
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.attention_kernels import eager
from dit360_core.plugins.offers import AttentionBackend
from dit360_core.plugins.registry import Registry
from dit360_core.system.memory import OutOfMemory
from invented_plugins import installed, offering
from random_models import random_conditioning, random_flux
from torch.overrides import TorchFunctionMode

from bench.soak import live_bytes

SIZE = {"width": 128, "steps": 2, "seed": 1}
MIB = 2**20


def refused():
    """What an allocator says that has too little: torch's own words."""
    torch.empty(2**60, dtype=torch.uint8)


class Scarce(TorchFunctionMode):
    """Refuses memory inside every ``every``-th call of an operator, so many times."""

    def __init__(self, operator, times, every=10):
        super().__init__()
        self.operator, self.times, self.every, self.calls = operator, times, every, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is self.operator:
            self.calls += 1
            if self.times and self.calls % self.every == 0:
                self.times -= 1
                refused()
        return func(*args, **(kwargs or {}))


def scarce_attention():
    """A registry whose best attention stores scores, and refuses as often as its counter says."""
    left = [0]

    def attend(q, k, v, *, scale):
        if left[0]:
            left[0] -= 1
            refused()
        return eager(q, k, v, scale=scale)

    offer = AttentionBackend(name="scarce", api=1, priority=99, stores_scores=True, load=lambda: attend)
    return left, Registry(entry_points=installed("scarce", offering(offer)))


def numbers(made):
    return np.asarray(made.image, dtype=float) if hasattr(made, "image") else made.numpy()


class Rungs:
    """One pipeline that is driven up its ladder, a rung a run; what it holds is measured after each.

    run: makes something. fails: the same, with so many refusals.
    """

    def __init__(self, pipe, run, fails):
        self.pipe, self.run, self.fails = pipe, run, fails
        self.right = numbers(run())
        self.base = live_bytes()
        self.errors = []

    def climb(self, refusals, allowed):
        """The rung that was reached. The result may differ by as much as is allowed."""
        made = numbers(self.fails(refusals))
        assert abs(made - self.right).max() <= allowed
        del made
        self.holds_no_more()
        return self.pipe.given_up[-1].partition(": ")[2]

    def give_up(self, refusals):
        """The last word. The exception is kept, as an interactive shell keeps it."""
        with pytest.raises(OutOfMemory) as told:
            self.fails(refusals)
        self.errors.append(told)
        self.holds_no_more()
        return str(told.value)

    def holds_no_more(self):
        now = live_bytes()
        assert now <= self.base + MIB / 8
        self.base = min(self.base, now)  # parts that were dropped must not creep back

    def goes_on(self, allowed):
        assert abs(numbers(self.run()) - self.right).max() <= allowed
        self.holds_no_more()


@pytest.fixture(autouse=True)
def only_what_is_made_here():
    """What other tests hold is not looked through, which takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_denoising_that_runs_out_of_memory_climbs_every_rung_paints_the_same_and_leaves_nothing():
    left, registry = scarce_attention()
    pipe = dit360_core.load("tiny", device="cpu", registry=registry)

    def fails(times):
        left[0] = times
        return pipe.generate("a castle", **SIZE)

    rungs = Rungs(pipe, lambda: pipe.generate("a castle", **SIZE), fails)
    # A run gives back what was freed first, whatever earlier ones did; all rungs below stay climbed.
    assert [rungs.climb(times, 1) for times in (1, 2, 2, 2, 2, 2)] == [
        "memory that was freed is given back",
        "attention takes 1024 query rows at a time",
        "attention takes 256 query rows at a time",
        "the text encoders are dropped",
        "parts that are not needed now are dropped",
        "offload=disk",
    ]
    said = rungs.give_up(2)
    assert said.startswith("There is too little memory on the cpu for sampling 128×64 (")
    assert "MiB are needed" in said
    assert "use a smaller width" in said
    rungs.goes_on(1)
    assert len(pipe.given_up) == 6, "one line a rung, however often it ran out"


PARTS = [
    "memory that was freed is given back",
    "the text encoders are dropped",
    "parts that are not needed now are dropped",
    "offload=disk",
]


@pytest.mark.parametrize("doing", ["decoding", "encoding"])
def test_the_autoencoder_that_runs_out_of_memory_climbs_every_rung_and_leaves_nothing(doing):
    pipe = dit360_core.load("tiny", device="cpu")
    latents = pipe.sample(pipe.encode("a castle"), **SIZE)
    picture = pipe.decode(latents)
    # One level of tiles, so that every refusal reaches the ladder.
    way = {"tiling_mode": "never"}
    run = {
        "decoding": lambda: pipe.decode(latents, **way),
        "encoding": lambda: pipe.encode_image(picture, **way).tensor,
    }[doing]

    def fails(times):
        with Scarce(torch.nn.functional.conv2d, times):
            return run()

    rungs = Rungs(pipe, run, fails)
    allowed = {"decoding": 1, "encoding": 1e-4}[doing]
    assert [rungs.climb(times, allowed) for times in (1, 2, 2, 2)] == PARTS
    for _ in range(2):
        said = rungs.give_up(2)
        assert said.startswith(f"There is too little memory on the cpu for {doing} 128×64 (")
        assert said.endswith("use tiling_mode=auto and tiling_backend=auto, which cut as memory asks.")
        rungs.goes_on(allowed)


def test_decoding_in_tiles_that_runs_out_at_every_level_leaves_nothing():
    pipe = Pipeline.from_diffusers(random_flux())
    latents = torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(0))

    def fails(times):
        with Scarce(torch.nn.functional.conv2d, times, every=7):
            return pipe.decode(latents, tiling_mode="always")

    rungs = Rungs(pipe, lambda: pipe.decode(latents, tiling_mode="always"), fails)
    for level, times in (("mixed", 1), ("recomputed", 2)):
        made = fails(times)
        assert made.settings["used"]["tiling"]["level"] == level
        assert abs(numbers(made) - rungs.right).max() <= 1
        del made
        rungs.holds_no_more()
    rungs.give_up(99)
    rungs.goes_on(1)


def test_reading_a_prompt_that_runs_out_of_memory_climbs_every_rung_and_leaves_nothing():
    pipe = dit360_core.load("tiny", device="cpu")
    prompts = iter(f"castle {i}" for i in range(99))

    def run(prompt="a castle"):
        return pipe.encode(prompt).positive.tokens

    def fails(times):
        # Other prompts than before, since those that were read may be remembered.
        fresh = next(prompts)
        with Scarce(torch.nn.functional.linear, times):
            run(fresh)
        return run()

    rungs = Rungs(pipe, run, fails)
    assert [rungs.climb(times, 0) for times in (1, 2, 2, 2)] == PARTS
    for _ in range(2):
        assert rungs.give_up(2).startswith("There is too little memory on the cpu for reading the prompt (")
        rungs.goes_on(0)


def test_an_error_that_is_kept_holds_no_tensor_of_the_stage_it_came_from():
    left, registry = scarce_attention()
    pipe = Pipeline.from_diffusers(random_flux(), registry=registry)
    words, latents = random_conditioning(), torch.randn(1, 16, 16, 32)
    pipe.sample(words, **SIZE)  # its trial run is over

    def sample():
        left[0] = 99
        pipe.sample(words, **SIZE)

    def decode(times=99):
        with Scarce(torch.nn.functional.conv2d, times, every=3):
            pipe.decode(latents)

    def broken_by_a_bug():
        pipe.engine.pipe.vae.decoder.conv_out.bias = torch.nn.Parameter(torch.zeros(7), requires_grad=False)
        pipe.decode(latents)

    for fails in (sample, decode, broken_by_a_bug):
        with pytest.raises((OutOfMemory, RuntimeError)):
            fails()  # up all rungs, which change what the pipeline holds
        before = live_bytes()
        with pytest.raises((OutOfMemory, RuntimeError)) as told:
            fails()
        assert live_bytes() == before, fails.__name__
        assert told.value.__traceback__ is not None
        left[0] = 0


def test_a_trial_run_that_runs_out_of_memory_is_a_reason_and_another_kernel_paints():
    left, registry = scarce_attention()
    pipe = Pipeline.from_diffusers(random_flux(), registry=registry)
    left[0] = 1
    attention = pipe.sample(random_conditioning(), **SIZE).settings["used"]["attention"]
    assert attention["used"] == "sdpa"
    assert attention["refused"]["scarce:scarce"][0]["sentence"] == "memory ran out in a trial run"
    assert pipe.given_up == ()
