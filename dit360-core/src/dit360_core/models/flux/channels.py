"""What a FLUX transformer takes for each token: the noise alone, or beside it a picture with a hole, and the hole.

FLUX.1-Fill, as diffusers' FluxFillPipeline runs it, takes for a token the latents of the noise, those of the picture
whose hole is grey, and the pixels of the mask, in this order: 64 + 64 + 256 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_A_PATCH = 4
"""Latents of a token, 2×2: it has so many channels for each of the autoencoder's."""
PIXELS_OF_A_LATENT = 8
"""On either side."""
OF_A_MASK = OF_A_PATCH * PIXELS_OF_A_LATENT**2
"""Pixels of a token: so many numbers has a mask there."""
USUAL_TAKEN = 64
"""What diffusers takes where a configuration says nothing."""


def taken(config: Mapping[str, Any]) -> int:
    """Channels of a token that a transformer is given."""
    return int(config.get("in_channels", USUAL_TAKEN))


def made(config: Mapping[str, Any]) -> int:
    """Channels of a token that it makes: those of the noise, which are as many as it takes if nothing else is said."""
    return int(config.get("out_channels") or taken(config))


def latents(config: Mapping[str, Any]) -> int:
    """Channels of the autoencoder's latents that it makes."""
    return made(config) // OF_A_PATCH


def noise_of_a_fill(channels: int) -> int | None:
    """How many of the channels are the noise's, if a transformer that takes so many may be one that fills."""
    noise, rest = divmod(channels - OF_A_MASK, 2)
    return noise if noise > 0 and not rest else None


def fills(config: Mapping[str, Any]) -> bool:
    """Whether a transformer is shown a picture with a hole, and the hole."""
    return noise_of_a_fill(taken(config)) == made(config)
