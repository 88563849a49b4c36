"""The core's own tilings under the tests that plugins inherit; and those tests catch tilings that are wrong."""

import pytest
import torch
from dit360_core.builtin.tiling_exact import Exact
from dit360_core.builtin.tiling_others import Blended, Whole
from dit360_core.testing import TilingConformance
from dit360_core.vae import decode_whole, encode_whole


class TestExact(TilingConformance):
    peak_share = 0.5

    def load(self, settings):
        return Exact(settings)


class TestWhole(TilingConformance):
    cuts = False

    def load(self, settings):
        return Whole(settings)


class TestBlended(TilingConformance):
    exact = False
    mean_error = 0.7

    def load(self, settings):
        return Blended(settings)


class Right:
    def __init__(self, settings):
        self.report = {"tiles": 2}

    def decode(self, vae, latents):
        return decode_whole(vae, latents)

    def encode(self, vae, pixels):
        return encode_whole(vae, pixels)


class Flat(Right):
    """The seam of a plain decode."""

    def decode(self, vae, latents):
        with torch.no_grad():
            return vae.decode(latents, return_dict=False)[0]


class Shifted(Right):
    def decode(self, vae, latents):
        return super().decode(vae, latents).roll(8, -1)


class Overwriting(Right):
    def decode(self, vae, latents):
        pixels = super().decode(vae, latents)
        latents.zero_()
        return pixels


class LeavingTilesOn(Right):
    def decode(self, vae, latents):
        vae.enable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 32
        return super().decode(vae, latents)


class OneTile(Right):
    def __init__(self, settings):
        self.report = {"tiles": 1}


class Half(Right):
    def decode(self, vae, latents):
        return super().decode(vae, latents)[..., ::2, ::2]


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (Flat, "test_decoding_gives_the_untiled_picture"),
        (Flat, "test_rolling_the_latents_rolls_the_picture"),
        (Shifted, "test_decoding_gives_the_untiled_picture"),
        (Overwriting, "test_latents_and_autoencoder_stay_as_they_are"),
        (LeavingTilesOn, "test_latents_and_autoencoder_stay_as_they_are"),
        (OneTile, "test_always_cuts_and_one_that_reports_says_so"),
        (Half, "test_odd_sizes_and_batches_keep_their_shape"),
        (Right, "test_cutting_takes_less_memory"),
    ],
)
def test_a_tiling_that_is_wrong_fails(wrong, test):
    class Tried(TilingConformance):
        def load(self, settings):
            return wrong(settings)

    with pytest.raises(AssertionError):
        getattr(Tried(), test)()
