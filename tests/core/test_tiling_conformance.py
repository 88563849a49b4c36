"""The core's own tilings under the tests that plugins inherit; and those tests catch tilings that are wrong."""

import pytest
import torch
from dit360_core.plugins.builtin.tiling_exact import Exact
from dit360_core.plugins.builtin.tiling_others import Blended, Whole
from dit360_core.sphere.vae import decode_whole, encode_whole
from dit360_core.testing import TilingConformance


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


class Scaled(Right):
    """Another gain in what it decodes, where one that is not exact may be off by half a standard deviation."""

    gain, more = 0.97, 0.0

    def decode(self, vae, latents):
        return self.gain * super().decode(vae, latents) + self.more


class Brighter(Scaled):
    gain, more = 1.0, 0.02


class Backwards(Scaled):
    gain = -1.0


class ScaledLatents(Right):
    def encode(self, vae, pixels):
        return 1.03 * super().encode(vae, pixels)


class Open(Blended):
    """Blended tiles that end at the meridian, as diffusers' own do."""

    def decode(self, vae, latents):
        return self._open(vae, lambda: vae.decode(latents, return_dict=False)[0])

    def encode(self, vae, pixels):
        return self._open(vae, lambda: vae.encode(pixels, return_dict=False)[0].mode())

    def _open(self, vae, run):
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size, vae.tile_overlap_factor = 384, 48, 1 / 6
        with torch.no_grad():
            made = run()
        vae.disable_tiling()
        return made


class Blurred(Right):
    def decode(self, vae, latents):
        pixels = super().decode(vae, latents)
        return (pixels + pixels.roll(2, -1) + pixels.roll(-2, -1)) / 3


SMOOTH = "test_smooth_pictures_have_the_gain_and_mean_of_the_untiled_ones_and_no_seam"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Scaled, "the gain in decoding, 0.970, is off by 0.03, where 0.01 is allowed"),
        (Backwards, "the gain in decoding, -1.000, is off by 2, where 0.01 is allowed"),
        (Brighter, "the mean in decoding is off by"),
        (ScaledLatents, "the gain in encoding, 1.030, is off by 0.03, where 0.01 is allowed"),
        (Open, "standard deviations at the meridian, where one that does not wrap is off by"),
        (Blurred, "the gain in decoding"),
    ],
)
def test_a_tiling_that_is_not_exact_is_no_licence_for_another_gain_or_a_seam(wrong, said):
    class Tried(TilingConformance):
        exact = False

        def load(self, settings):
            return wrong(settings)

    with pytest.raises(AssertionError) as raised:
        getattr(Tried(), SMOOTH)()
    assert said in str(raised.value)


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

    with pytest.raises(AssertionError, match=r"\d"):  # by how much
        getattr(Tried(), test)()
