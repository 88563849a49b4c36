"""The contract of a tiling, as tests that a plugin's author inherits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dit360_core.models.flux.small import small_autoencoder
from dit360_core.plugins.offers import TilingImplementation, TilingSettings
from dit360_core.sphere.vae import decode_whole, encode_whole
from dit360_core.testing.saying import same, within
from dit360_core.testing.smooth import smooth, steady
from dit360_core.testing.storage import PeakStorage

_ROWS, _COLUMNS, _TILE, _OVERLAP = 16, 96, 384, 64
"""Latents of a picture that is cut in two or more beside each other, and pixels of its tiles, whose middle is far from
their edges."""


class TilingConformance:
    """Inherit, say how the tiling is loaded, and let pytest run it::

        class TestMine(TilingConformance):
            exact = False
            def load(self, settings):
                return Mine(settings)

    exact: what the offer says; the untiled circular result is then met within 5·10⁻⁵ of the picture's standard
    deviation, otherwise within ``mean_error`` of it on average, and far from the edges of tiles within ``gain`` and
    ``mean``.
    peak_share: of the untiled memory, that cutting a picture may take.
    cuts: whether ``always`` is supported.
    """

    exact: bool = True
    cuts: bool = True
    mean_error: float = 0.5
    gain: float = 0.01
    mean: float = 0.01
    peak_share: float = 0.9

    def load(self, settings: TilingSettings) -> TilingImplementation:
        """The implementation, as the offer's ``load`` gives it."""
        raise NotImplementedError

    def autoencoder(self) -> Any:
        """What it is tried with; override for another one."""
        return small_autoencoder()

    # ------------------------------------------------------------------------------------------------------ tests

    def test_decoding_gives_the_untiled_picture(self) -> None:
        vae, latents = self.autoencoder(), _noise(1, 16, 9, 18)
        self._compare("the picture", self._made().decode(vae, latents), decode_whole(vae, latents))

    def test_encoding_gives_the_untiled_latents(self) -> None:
        vae, pixels = self.autoencoder(), _noise(1, 3, 72, 144).clamp(-1, 1)
        self._compare("the latents", self._made().encode(vae, pixels), encode_whole(vae, pixels))

    def test_smooth_pictures_have_the_gain_and_mean_of_the_untiled_ones_and_no_seam(self) -> None:
        """With an autoencoder that sees only what is near: far from the edges of its tiles any tiling is right."""
        if self.exact:
            return  # the others compare every pixel
        latents, pixels = smooth(16, _ROWS, _COLUMNS), smooth(3, 8 * _ROWS, 8 * _COLUMNS) / 2
        vae = steady(self.autoencoder(), latents, pixels)
        tiling = self._made(tile_size=_TILE, tile_overlap=_OVERLAP)
        with torch.no_grad():
            open_ = vae.decode(latents, return_dict=False)[0], vae.encode(pixels, return_dict=False)[0].mode()
        self._agree("decoding", tiling.decode(vae, latents), decode_whole(vae, latents), open_[0])
        self._agree("encoding", tiling.encode(vae, pixels), encode_whole(vae, pixels), open_[1])

    def test_odd_sizes_and_batches_keep_their_shape(self) -> None:
        vae = self.autoencoder()
        for shape in ((2, 16, 5, 7), (1, 16, 2, 4), (1, 16, 3, 30)):
            pixels = self._made().decode(vae, _noise(*shape))
            right = (shape[0], 3, 8 * shape[2], 8 * shape[3])
            assert tuple(pixels.shape) == right, f"latents {shape} became pixels {tuple(pixels.shape)}, not {right}"
            again = tuple(self._made().encode(vae, pixels).shape)
            assert again == shape, f"pixels {right} became latents {again}, not {shape}"
            assert pixels.dtype == torch.float32, f"float32 became {pixels.dtype}"
            lost = int((~torch.isfinite(pixels)).sum())
            assert not lost, f"{lost} of {pixels.numel()} pixels of latents {shape} are not finite"

    def test_latents_and_autoencoder_stay_as_they_are(self) -> None:
        vae, latents = self.autoencoder(), _noise(1, 16, 8, 16)
        before, state = latents.clone(), {name: value.clone() for name, value in vae.state_dict().items()}
        with torch.no_grad():
            plain = vae.decode(latents, return_dict=False)[0]
            self._made().decode(vae, latents)
            self._made().encode(vae, plain)
            again = vae.decode(latents, return_dict=False)[0]
        same(latents, before, "the latents that it was given")
        for name, value in vae.state_dict().items():
            same(value, state[name], f"the autoencoder's {name} afterwards")
        same(again, plain, "a plain decode afterwards")

    def test_rolling_the_latents_rolls_the_picture(self) -> None:
        vae, latents = self.autoencoder(), _noise(1, 16, 8, 20)
        straight = self._made().decode(vae, latents)
        for columns in (1, 5, 13):
            rolled = self._made().decode(vae, latents.roll(columns, -1))
            self._compare(f"the picture rolled by {columns}", rolled, straight.roll(8 * columns, -1))

    def test_the_meridian_is_no_edge(self) -> None:
        """The step from the last column to the first, against the other steps, as in the untiled picture."""
        vae, latents = self.autoencoder(), _noise(1, 16, 16, 40)
        made, whole = (_seam(decode(vae, latents)) for decode in (self._made().decode, decode_whole))
        allowed = 1.01 if self.exact else 2.0
        assert made <= allowed * whole, (
            f"the step at the meridian is {made / whole:.3g} times the untiled picture's, where {allowed:g} is allowed"
        )

    def test_always_cuts_and_one_that_reports_says_so(self) -> None:
        if not self.cuts:
            return
        for height, width in ((16, 32), (2, 4)):
            tiling = self._made(mode="always")
            tiling.decode(self.autoencoder(), _noise(1, 16, height, width))
            tiles = getattr(tiling, "report", {}).get("tiles", 2)
            assert tiles > 1, f"tiling_mode=always cut {8 * width}×{8 * height} pixels into {tiles}; at least 2 are due"

    def test_cutting_takes_less_memory(self) -> None:
        if not self.cuts:
            return
        vae, latents = self.autoencoder(), _noise(1, 16, 48, 96)
        tiling = self._made(mode="always", tile_size=256, tile_overlap=32)
        mine, whole = (_peak(decode, vae, latents) for decode in (tiling.decode, decode_whole))
        assert mine <= self.peak_share * whole, (
            f"it takes {mine / whole:.2f} of the untiled memory, where {self.peak_share:.2f} is allowed"
        )

    # ------------------------------------------------------------------------------------------------ inner parts

    def _made(self, **settings: Any) -> TilingImplementation:
        wanted = {"mode": "always" if self.cuts else "never", "tile_size": 64, "tile_overlap": 16, **settings}
        return self.load(TilingSettings(**wanted))

    def _compare(self, what: str, made: torch.Tensor, expected: torch.Tensor) -> None:
        assert made.shape == expected.shape, f"{what} is {tuple(made.shape)}, not {tuple(expected.shape)}"
        error = (made - expected).abs() / expected.std()
        of = "in standard deviations"
        if self.exact:
            within(float(error.max()), 5e-5, what, f"at most, {of}")
        else:
            within(float(error.mean()), self.mean_error, what, f"on average, {of}")

    def _agree(self, doing: str, made: torch.Tensor, whole: torch.Tensor, open_: torch.Tensor) -> None:
        """Compares columns far from the edges of tiles, and those at the meridian.

        open_: one that does not wrap.
        """
        assert made.shape == whole.shape, f"{doing} gave {tuple(made.shape)}, not {tuple(whole.shape)}"
        mine, right, edged = (_columns(pixels / whole.std()) for pixels in (made, whole, open_))
        means = [part.mean(2, keepdim=True) for part in (mine, right)]
        found, due = mine - means[0], right - means[1]
        gains = (found * due).sum((1, 2)) / due.square().sum((1, 2))
        left = (found - gains[:, None, None] * due).square().mean((1, 2)).sqrt()
        # A tiling is off near the edges of its tiles, wherever they are: the quarter that is least so.
        quiet = left.argsort()[: _COLUMNS // 4]
        gain, mean = float(gains[quiet].median()), float((means[0] - means[1])[quiet].median(0).values.abs().max())
        within(abs(gain - 1), self.gain, f"the gain in {doing}, {gain:.3f},", "far from the edges of tiles; 1 is right")
        within(mean, self.mean, f"the mean in {doing}", "far from the edges of tiles, in standard deviations")
        within(float(left[quiet].max()), 0.1, f"{doing}", "far from the edges of tiles, in standard deviations")
        beside = [0, 1, -2, -1]
        off, of_open = (float((part - right)[beside].square().mean().sqrt()) for part in (mine, edged))
        assert off <= 0.5 * of_open, (
            f"{doing} is off by {off:.3g} standard deviations at the meridian, where one that does not wrap is off by "
            f"{of_open:.3g} and half of that is allowed"
        )


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _columns(pixels: torch.Tensor) -> torch.Tensor:
    """``(columns of latents, channels, numbers of each)`` of one picture or its latents."""
    channels, rows, width = pixels[0].shape
    return pixels[0].reshape(channels, rows, _COLUMNS, width // _COLUMNS).movedim(2, 0).flatten(2)


def _seam(pixels: torch.Tensor) -> float:
    steps = (pixels - pixels.roll(1, -1)).abs().mean((0, 1, 2))
    return float(steps[0] / steps.median())


def _peak(decode: Callable[[Any, torch.Tensor], torch.Tensor], vae: Any, latents: torch.Tensor) -> int:
    with torch.no_grad(), PeakStorage(latents, *vae.parameters()) as storage:
        decode(vae, latents)
    return int(storage.peak)
