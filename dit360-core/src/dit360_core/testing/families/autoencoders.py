"""From latents to pixels and back: an autoencoder that wraps, and can be run in pieces."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.plugins.builtin.tiling import dit360_tilings
from dit360_core.plugins.offers import TilingImplementation, TilingSettings
from dit360_core.sphere.vae import decode_whole, encode_whole
from dit360_core.testing.families.base import FamilyTests
from dit360_core.testing.families.model import off
from dit360_core.testing.saying import shaped, within

EXACT, TURNED = 5e-5, 1e-5
"""In standard deviations of the picture; as a share of its largest number."""


class AutoencoderTests(FamilyTests):
    """Of ``pipe.vae``: 4-D in and out, an eighth of the picture, taken apart by the core or by its own steps."""

    def test_latents_are_stored_as_diffusers_gives_them_to_the_autoencoder(self) -> None:
        model, right = self.model(), self.model().reference
        engine = model.load().engine
        latents = engine.unpack(right.end, model.grid())
        stored = engine.to_stored(latents)
        shaped(stored, right.stored, "Engine.to_stored")
        within(off(stored, right.stored), 1e-5, "Engine.to_stored", "look at scale, shift and statistics")
        within(off(engine.from_stored(stored), latents), 1e-5, "Engine.from_stored of Engine.to_stored")
        for dtype in (torch.float64, torch.bfloat16):
            assert engine.to_stored(latents.to(dtype)).dtype == dtype, f"Engine.to_stored changes {dtype}"

    def test_latents_go_to_other_software_and_come_back(self) -> None:
        model, engine = self.model(), self.model().load().engine
        latents = engine.unpack(model.reference.end, model.grid())
        exchanged, side = engine.to_exchanged(latents), engine.exchanged_side
        height, width = (8 * length // side for length in latents.shape[-2:])
        assert tuple(exchanged.shape[-2:]) == (height, width), (
            f"Engine.to_exchanged gives {tuple(exchanged.shape)}, where one latent has {side} pixels on each side by "
            "Engine.exchanged_side"
        )
        within(off(engine.from_exchanged(exchanged), latents), 1e-5, "Engine.from_exchanged of Engine.to_exchanged")

    def test_it_makes_pixels_of_latents_and_latents_of_pixels(self) -> None:
        vae, latents = self._vae_and_latents()
        with torch.no_grad():
            pixels = vae.decode(latents, return_dict=False)[0]
            again = vae.encode(pixels, return_dict=False)[0].mode()
        height, width = latents.shape[-2:]
        assert tuple(pixels.shape) == (1, 3, 8 * height, 8 * width), (
            f"vae.decode makes {tuple(pixels.shape)} of {tuple(latents.shape)}, where 4-D pixels belong, eight times "
            "as large"
        )
        assert again.shape == latents.shape, f"vae.encode makes {tuple(again.shape)}, not {tuple(latents.shape)}"

    def test_rolled_latents_are_a_rolled_picture(self) -> None:
        vae, latents = self._vae_and_latents()
        straight = decode_whole(vae, latents)
        for columns in (1, 5):
            rolled = decode_whole(vae, latents.roll(columns, -1))
            about = f"{columns} columns; the autoencoder has a layer that knows where it is"
            found = float((rolled - straight.roll(8 * columns, -1)).abs().max() / straight.abs().max())
            within(found, TURNED, "the picture of rolled latents, as a share of its brightest pixel,", about)

    def test_exact_tiles_are_the_whole_picture(self) -> None:
        vae, latents = self._vae_and_latents()
        exact = self._exact()
        whole = decode_whole(vae, latents)
        refused = [str(reason) for reason in getattr(exact, "refuses", lambda vae: ())(vae)]
        assert not refused, f"the autoencoder cannot be taken apart: {'; '.join(refused)}; see docs/plugins.md"
        within(off(exact.decode(vae, latents), whole), EXACT, "the picture in exact tiles, against the whole one,")
        tiles = int(getattr(exact, "report", {}).get("tiles", 0))
        assert tiles > 1, "it was decoded in one piece, so that nothing is shown"
        pixels = whole.clamp(-1, 1)
        found = off(exact.encode(vae, pixels), encode_whole(vae, pixels))
        within(found, EXACT, "the latents of exact tiles, against those of the whole picture,")

    def test_a_preview_has_a_colour_for_every_latent(self) -> None:
        engine = self.model().load().engine
        factors = engine.latent_to_rgb()
        right = (engine.latent_channels + 1, 3)
        assert tuple(factors.shape) == right, f"Engine.latent_to_rgb gives {tuple(factors.shape)}, not {right}"
        assert bool(torch.isfinite(factors).all()), "Engine.latent_to_rgb gives numbers that are not finite"
        assert bool(factors.any()), "Engine.latent_to_rgb gives a black preview of everything"

    # ----------------------------------------------------------------------------------------------------- inner parts

    def _vae_and_latents(self) -> tuple[Any, torch.Tensor]:
        vae = self.model().load().engine.autoencoder
        channels = self.model().facts.latent_channels
        return vae, torch.randn(1, channels, 6, 12, generator=torch.Generator().manual_seed(1))

    def _exact(self) -> TilingImplementation:
        offer = next(offer for offer in dit360_tilings() if offer.exact)
        return offer.load(TilingSettings(mode="always", tile_size=64, tile_overlap=16))
