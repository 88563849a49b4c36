"""A plugin's tiling decodes and encodes a small picture before it paints: wrong signs, gains and means are told."""

import pytest
import torch
from dit360_core.errors import Dit360Error
from dit360_core.models.flux.small import small_autoencoder
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.tiling_trial import sketch
from dit360_core.plugins.builtin.tiling_others import Blended, Whole
from dit360_core.plugins.offers import TilingSettings
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.vae import decode_whole, encode_whole
from invented_plugins import installed, offering, tiling
from random_models import random_flux


class Scaled:
    """cut: whether it is wrong only where it cuts."""

    def __init__(self, settings, gain, more=0.0, cut=False):
        wrong = settings.mode == "always" or not cut
        self.gain, self.more = (gain, more) if wrong else (1.0, 0.0)

    def decode(self, vae, latents):
        return self.gain * decode_whole(vae, latents) + self.more

    def encode(self, vae, pixels):
        return self.gain * encode_whole(vae, pixels) + self.more


@pytest.fixture(scope="module")
def vae():
    return small_autoencoder()


def told(vae, load, what, exact):
    return sketch(load, TilingSettings(), vae, 16, exact=exact, what=what)


@pytest.mark.parametrize("what", ["decode", "encode"])
@pytest.mark.parametrize(
    ("exact", "wrong", "said"),
    [
        (True, {"gain": -1.0}, "has a gain of -1, where 0.99 to 1.01 is allowed"),
        (False, {"gain": -1.0}, "has a gain of -1, where 0.5 to 2 is allowed"),
        (False, {"gain": 0.0}, "has a gain of 0"),
        (True, {"gain": 0.97}, "has a gain of 0.97"),
        (True, {"gain": 1.0, "more": 0.1}, "has a mean that is off by"),
        (False, {"gain": -1.0, "cut": True}, "in small tiles has a gain of -1"),
    ],
)
def test_a_wrong_sign_gain_or_mean_is_told_by_how_much(vae, what, exact, wrong, said):
    assert said in told(vae, lambda settings: Scaled(settings, **wrong), what, exact)


@pytest.mark.parametrize("what", ["decode", "encode"])
def test_right_ones_pass_and_random_numbers_are_as_before(vae, what):
    before = torch.get_rng_state()
    assert told(vae, Whole, what, True) == ""
    assert told(vae, Blended, what, False) == ""
    assert torch.equal(torch.get_rng_state(), before)


def test_what_it_raises_is_left_to_the_picture(vae):
    def raises(settings):
        raise BaseException("as pyo3 does")

    assert told(vae, raises, "decode", True) == ""


def test_in_a_pipeline_it_is_one_sentence_and_no_picture():
    plugin = offering(
        tiling("negative", lambda settings: Scaled(settings, -1.0), exact=False, priority=-1),
        tiling("right", Whole, exact=True, priority=-1),
    )
    pipe = Pipeline.from_diffusers(random_flux(), registry=Registry(entry_points=installed("kit", plugin)))
    latents = torch.randn(1, 16, 8, 16, generator=torch.Generator().manual_seed(5))
    with pytest.raises(Dit360Error, match=r"The tiling negative \(kit 1.0\) is wrong: .* a gain of -1, .*; choose"):
        pipe.decode(latents, tiling_backend="negative")
    with pytest.raises(Dit360Error, match="a small picture that it encodes has a gain of -1"):
        pipe.encode_image(torch.rand(1, 3, 64, 128), tiling_backend="negative")
    assert pipe.decode(latents, tiling_backend="right").image.size == (128, 64)
