"""The contract of a tiling, as tests that a plugin's author inherits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dit360_core.offers import TilingImplementation, TilingSettings
from dit360_core.testing.models import small_autoencoder
from dit360_core.testing.storage import PeakStorage
from dit360_core.vae import decode_whole, encode_whole


class TilingConformance:
    """Inherit, say how the tiling is loaded, and let pytest run it::

        class TestMine(TilingConformance):
            exact = False
            def load(self, settings):
                return Mine(settings)

    exact: what the offer says; the untiled circular result is then met within 5·10⁻⁵ of the picture's standard
    deviation, otherwise within ``mean_error`` of it on average. peak_share: of the untiled memory, that cutting a
    picture may take. cuts: whether ``always`` is supported.
    """

    exact: bool = True
    cuts: bool = True
    mean_error: float = 0.5
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
        self._compare(self._made().decode(vae, latents), decode_whole(vae, latents))

    def test_encoding_gives_the_untiled_latents(self) -> None:
        vae, pixels = self.autoencoder(), _noise(1, 3, 72, 144).clamp(-1, 1)
        self._compare(self._made().encode(vae, pixels), encode_whole(vae, pixels))

    def test_odd_sizes_and_batches_keep_their_shape(self) -> None:
        vae = self.autoencoder()
        for shape in ((2, 16, 5, 7), (1, 16, 2, 4), (1, 16, 3, 30)):
            pixels = self._made().decode(vae, _noise(*shape))
            assert tuple(pixels.shape) == (shape[0], 3, 8 * shape[2], 8 * shape[3])
            assert tuple(self._made().encode(vae, pixels).shape) == shape
            assert pixels.dtype == torch.float32
            assert bool(torch.isfinite(pixels).all())

    def test_latents_and_autoencoder_stay_as_they_are(self) -> None:
        vae, latents = self.autoencoder(), _noise(1, 16, 8, 16)
        before, state = latents.clone(), {name: value.clone() for name, value in vae.state_dict().items()}
        with torch.no_grad():
            plain = vae.decode(latents, return_dict=False)[0]
            self._made().decode(vae, latents)
            self._made().encode(vae, plain)
            again = vae.decode(latents, return_dict=False)[0]
        assert torch.equal(latents, before)
        assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
        assert torch.equal(plain, again)

    def test_rolling_the_latents_rolls_the_picture(self) -> None:
        vae, latents = self.autoencoder(), _noise(1, 16, 8, 20)
        straight = self._made().decode(vae, latents)
        for columns in (1, 5, 13):
            rolled = self._made().decode(vae, latents.roll(columns, -1))
            self._compare(rolled, straight.roll(8 * columns, -1))

    def test_the_meridian_is_no_edge(self) -> None:
        """The step from the last column to the first, against the other steps, as in the untiled picture."""
        vae, latents = self.autoencoder(), _noise(1, 16, 16, 40)
        made, whole = (_seam(decode(vae, latents)) for decode in (self._made().decode, decode_whole))
        assert made <= (1.01 if self.exact else 2.0) * whole, f"the step is {made / whole:.2f} times as large"

    def test_always_cuts_and_one_that_reports_says_so(self) -> None:
        if not self.cuts:
            return
        for height, width in ((16, 32), (2, 4)):
            tiling = self._made(mode="always")
            tiling.decode(self.autoencoder(), _noise(1, 16, height, width))
            assert getattr(tiling, "report", {}).get("tiles", 2) > 1

    def test_cutting_takes_less_memory(self) -> None:
        if not self.cuts:
            return
        vae, latents = self.autoencoder(), _noise(1, 16, 48, 96)
        tiling = self._made(mode="always", tile_size=256, tile_overlap=32)
        peaks = [_peak(decode, vae, latents) for decode in (tiling.decode, decode_whole)]
        assert peaks[0] <= self.peak_share * peaks[1], f"it takes {peaks[0] / peaks[1]:.2f} of the untiled memory"

    # ------------------------------------------------------------------------------------------------ inner parts

    def _made(self, **settings: Any) -> TilingImplementation:
        wanted = {"mode": "always" if self.cuts else "never", "tile_size": 64, "tile_overlap": 16, **settings}
        return self.load(TilingSettings(**wanted))

    def _compare(self, made: torch.Tensor, expected: torch.Tensor) -> None:
        assert made.shape == expected.shape
        error = (made - expected).abs() / expected.std()
        if self.exact:
            assert float(error.max()) <= 5e-5, f"it is off by {float(error.max()):.1e} standard deviations"
        else:
            assert float(error.mean()) <= self.mean_error, f"it is off by {float(error.mean()):.2f} on average"


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _seam(pixels: torch.Tensor) -> float:
    steps = (pixels - pixels.roll(1, -1)).abs().mean((0, 1, 2))
    return float(steps[0] / steps.median())


def _peak(decode: Callable[[Any, torch.Tensor], torch.Tensor], vae: Any, latents: torch.Tensor) -> int:
    with torch.no_grad(), PeakStorage(latents, *vae.parameters()) as storage:
        decode(vae, latents)
    return int(storage.peak)
