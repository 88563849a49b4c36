"""Channels of latents and pixels to a latent column, for every autoencoder that is known here."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.errors import ModelError
from dit360_core.sphere.vae.schedule import size_after
from dit360_core.sphere.vae.steps import TellsSteps, channels_in
from dit360_core.sphere.vae.structure import decoder_steps


def latent_channels(vae: Any) -> int:
    """Channels of an autoencoder's latents: ``latent_channels`` or ``z_dim`` of its configuration, or by its own steps.

    Raises ModelError if it tells none.
    """
    if isinstance(vae, TellsSteps):
        return channels_in(decoder_steps(vae)[0])
    config = getattr(vae, "config", None)
    for name in ("latent_channels", "z_dim"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    raise ModelError(f"The autoencoder, a {type(vae).__name__}, does not say how many channels its latents have.")


def pixels_per_latent(vae: Any) -> int:
    """Pixels to a latent column."""
    if isinstance(vae, TellsSteps):
        return size_after(decoder_steps(vae), 4, 4)[0] // 4
    blocks = getattr(vae.config, "block_out_channels", None)
    # Every block but one halves or doubles.
    return int(2 ** (len(blocks) - 1) if blocks is not None else vae.spatial_compression_ratio)


def mean_of(vae: Any, moments: torch.Tensor) -> torch.Tensor:
    """The mean of the posterior, of what an encoder makes ``(B, 2·C or C, h, w)``."""
    return moments[:, : latent_channels(vae)]
