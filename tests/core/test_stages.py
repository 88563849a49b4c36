"""The stages of a pipeline one by one: prompts that are mixed, somebody who looks in, a host that shares the device."""

import traceback

import attrs
import dit360_core
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from dit360_core.errors import Dit360Error, InputError
from dit360_core.models.flux.architecture import FLUX
from dit360_core.models.flux.folder import WEIGHTS
from dit360_core.models.residency import placement, residency
from dit360_core.options import OFFLOADS, LoadOptions
from dit360_core.panorama.gpano import MADE, Area, Pose
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline import prepared as prepared_module
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Conditioning
from dit360_core.plugins.registry import Registry, default_registry
from invented_plugins import attention, installed, offering, scheduler
from PIL import Image
from random_models import random_conditioning, random_flux

SMALL = {"width": 64, "height": 32, "steps": 1, "seed": 3}


@pytest.fixture
def words(tiny) -> Conditioning:
    return tiny.encode("a meadow", max_sequence_length=8)


def sampled(pipe, words) -> torch.Tensor:
    return pipe.sample(words, **SMALL).tensor


def test_the_pose_of_a_picture_stays_with_what_is_made_of_it(tiny, words):
    pose = Pose(heading=40.0, pitch=3.0, view_fov=70.0, others={"CaptureSoftware": "a camera"})
    begun = tiny.encode_image(Panorama(image=Image.new("RGB", (64, 32), (90, 120, 200)), pose=pose))
    kept = attrs.evolve(pose, others={})  # no camera has taken the new one
    assert begun.pose == kept
    latents = tiny.sample(words, image=begun, denoise=0.5, **SMALL)
    assert tiny.decode(latents).pose == tiny.decode_pixels(latents).pose == kept
    assert tiny.sample(words, **SMALL).pose == MADE
    part = Area(left=0, top=8, width=64, height=16)
    with pytest.raises(InputError, match="cannot be encoded: it is a part of a panorama"):
        tiny.encode_image(Panorama(image=Image.new("RGB", (64, 32)), area=part))


# ---------------------------------------------------------------------------------------------- several prompts


def test_a_prompt_mixed_with_itself_is_that_prompt(tiny, words):
    twice = attrs.evolve(words, others=(words.positive,))
    latents = tiny.sample(twice, **SMALL)
    assert torch.allclose(latents.tensor, sampled(tiny, words), atol=1e-5)
    assert (latents.settings["used"]["prompts"], latents.settings["used"]["evaluations"]) == (2, 2)


def test_a_picture_of_two_prompts_is_between_those_of_each(tiny, words):
    other = tiny.encode("a dark cave", max_sequence_length=8)
    mixed = sampled(tiny, attrs.evolve(words, others=(other.positive,)))
    # One Euler step is linear in the velocity.
    assert torch.allclose(mixed, (sampled(tiny, words) + sampled(tiny, other)) / 2, atol=1e-4)


def test_a_conditioning_of_another_model_is_refused(tiny, words):
    alien = attrs.evolve(words.positive, tokens=torch.zeros(1, 8, 7))
    with pytest.raises(InputError, match="7 channels a token"):
        tiny.sample(attrs.evolve(words, positive=alien), **SMALL)


def test_prompts_of_two_lengths_wrap_by_a_bias_of_each(tiny, words):
    longer = tiny.encode("a dark cave", max_sequence_length=16)
    mixed = attrs.evolve(words, others=(longer.positive,))
    by_bias = tiny.sample(mixed, circular_mode="bias", **SMALL).tensor
    assert torch.allclose(by_bias, tiny.sample(mixed, **SMALL).tensor, atol=1e-4)


# -------------------------------------------------------------------------------------------------- looking in


class Enough(BaseException):
    """As ComfyUI's own, which newer versions do not derive from Exception."""


def after(calls: int):
    left = [calls]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Enough

    return check, left


@pytest.mark.parametrize("mode", ["never", "always"])
def test_a_stage_stops_between_its_layers_and_the_model_stays_usable(tiny, words, mode):
    latents = tiny.sample(words, **SMALL)
    for run in (
        lambda: tiny.encode("a meadow"),
        lambda: tiny.sample(words, **SMALL),
        lambda: tiny.decode(latents, tiling_mode=mode),
        lambda: tiny.encode_image(torch.rand(1, 3, 32, 64), tiling_mode=mode),
    ):
        check, left = after(10**9)
        with tiny.interruptible(check):
            run()
        calls = 10**9 - left[0]
        assert calls > 10
        check, _ = after(calls // 2)
        with pytest.raises(Enough), tiny.interruptible(check):
            run()
    assert torch.equal(tiny.sample(words, **SMALL).tensor, latents.tensor)
    assert not any(module._forward_pre_hooks for module in tiny.engine.denoiser.modules())


class Stopped(Exception):
    """As ComfyUI's own, in versions that derive it from Exception."""


def test_who_stops_a_plugins_kernel_is_not_taken_for_the_plugin(words):
    def attend(q, k, v, *, scale):
        return torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale
        ).transpose(1, 2)

    plugin = installed("third-party", offering(attention("theirs", load=lambda: attend, priority=99)))
    pipe = dit360_core.load("tiny", registry=Registry(entry_points=plugin))
    assert pipe.plan.attention.used == "theirs"

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped), pipe.interruptible(stop):
        pipe.sample(words, **SMALL)


def test_parts_that_come_while_somebody_looks_in_are_watched_too(words):
    pipe = dit360_core.load("tiny", evict="all")
    check, left = after(10**9)
    with pipe.interruptible(check):
        pipe.sample(words, **SMALL)
    assert left[0] < 10**9 - 10


def test_pixels_are_those_of_the_picture_before_rounding(tiny, words):
    latents = tiny.sample(words, **SMALL)
    pixels = tiny.decode_pixels(latents)
    picture = tiny.decode(latents)
    rounded = (pixels.tensor[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert (rounded == np.asarray(picture.image)).all()
    assert pixels.settings == picture.settings


def test_pixels_of_the_wrong_shape_are_refused(tiny):
    with pytest.raises(InputError, match=r"\(1, 3, H, W\)"):
        tiny.encode_image(torch.zeros(3, 32, 64))


# -------------------------------------------------------------------------------------------- what an error holds


class Failing:
    """A solver with a variable of its own, that somebody may look at."""

    def __init__(self, error):
        self.error = error

    def sigmas(self, steps, tokens):
        return [1.0, 0.0]

    def step(self, velocity, sigma, sigma_next, x, generator):
        if x.shape[-1] == 4:  # it is not painting yet
            return x + (sigma_next - sigma) * velocity
        looked_at = velocity.square()
        if looked_at.numel():
            raise self.error
        return x


@pytest.mark.parametrize(
    ("error", "kept"), [(RuntimeError("sm_90"), True), (torch.OutOfMemoryError("CUDA out of memory."), False)]
)
def test_a_plugins_functions_keep_their_variables_unless_memory_ran_out(error, kept):
    plugin = offering(scheduler("fails", lambda settings: Failing(error)))
    pipe = Pipeline.from_diffusers(random_flux(), registry=Registry(entry_points=installed("kit", plugin)))
    with pytest.raises(Dit360Error) as raised:
        pipe.sample(random_conditioning(), scheduler_type="fails", width=128, height=64, steps=1, seed=1)
    link, functions = raised.value, {}
    while link is not None:
        for frame, _ in traceback.walk_tb(link.__traceback__):
            functions.setdefault(frame.f_globals["__name__"], set()).update(frame.f_locals)
        link = link.__cause__ or link.__context__
    assert ("looked_at" in functions[__name__]) is kept
    assert not functions["dit360_core.pipeline.sampling"], "ours hold nothing"


# ----------------------------------------------------------------------------------------------------- a host


class Host:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.used: list[tuple[str, ...]] = []
        self.let_go: list[str] = []

    def use(self, names) -> None:
        self.used.append(tuple(names))

    def dropped(self, names) -> None:
        self.let_go += names

    def make_room(self) -> None:
        raise AssertionError("no memory ran out")


def test_a_host_is_told_of_each_part_before_it_is_used_and_when_it_goes(words):
    host = Host()
    prepared = prepare(LoadOptions(evict="text"), registry=default_registry())
    pipe = attrs.evolve(prepared, host=host).load()
    pipe.decode(pipe.sample(pipe.encode("a meadow"), **SMALL))
    assert ("text_encoder", "text_encoder_2") in host.used
    assert ("transformer",) in host.used
    assert host.used[-1] == ("vae",)
    assert set(host.let_go) == {"text_encoder_2"}


@pytest.mark.parametrize("offload", OFFLOADS)
def test_every_part_is_brought_by_the_core_or_by_the_host(offload, monkeypatch, tmp_path):
    placed: list[str] = []

    def place_part(family, name, part, how, device) -> None:
        assert part is not None
        placed.append(name)

    for module in (placement, residency, prepared_module):
        monkeypatch.setattr(module, "place_part", place_part)
    # What accelerate does needs an accelerator; that it is asked to is what is looked at.
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(FluxPipeline, name, lambda self, device: placed.extend(WEIGHTS))
    prepared = prepare(LoadOptions(evict="none"), registry=default_registry())
    plan = attrs.evolve(prepared.plan, offload=offload)
    attrs.evolve(prepared, plan=plan, host=Host()).load()
    hosts = {name for name in WEIGHTS if not FLUX.moved_by_the_core(offload, name)}
    assert set(placed) | hosts == set(WEIGHTS)
    assert not set(placed) & hosts
