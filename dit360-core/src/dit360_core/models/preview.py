"""A linear look at latents: what each of their pixels will be on average, in a fraction of a millisecond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from dit360_core.sphere.vae import latent_channels, whole_decoder

_PATCHES, _SIDE = 64, 4
"""Uniform patches of latents that factors are fitted to, and their side."""


def fitted(
    vae: Any, to_stored: Callable[[torch.Tensor], torch.Tensor], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Factors ``(C + 1, 3)`` float32 on the CPU: model-space latents, and a 1, to RGB in −1 … 1 (least squares).

    vae: the autoencoder, which is asked for uniform patches.
    to_stored: latents in model space → as the autoencoder has them.
    device: where it computes, which need not be where its weights rest.
    """
    channels = latent_channels(vae)
    generator = torch.Generator().manual_seed(0)
    colours = 0.5 * torch.randn(_PATCHES, channels, 1, 1, generator=generator)
    patches = to_stored(colours.expand(-1, -1, _SIDE, _SIDE)).to(device, vae.dtype)
    decode = whole_decoder(vae)
    pixels = torch.cat([decode(patch) for patch in torch.split(patches, 8)])
    # The middle only: the borders of a patch know that they are borders.
    inner = pixels.float().cpu()[..., pixels.shape[2] // 4 : -(pixels.shape[2] // 4), :]
    wanted = inner.mean((2, 3))
    given = torch.cat([colours.flatten(1), torch.ones(_PATCHES, 1)], dim=1)
    found: torch.Tensor = torch.linalg.lstsq(given, wanted).solution
    return found


def preview(latents: torch.Tensor, factors: torch.Tensor, scale: int) -> torch.Tensor:
    """Model-space latents ``(1, C, h, w)`` → RGB ``(3, scale·h, scale·w)`` float32 in 0 … 1, on the CPU.

    Enlarged bilinearly; beyond the last column lies the first.
    """
    flat = torch.einsum("chw,cr->rhw", latents[0].float(), factors[:-1].to(latents.device))
    small = (flat + factors[-1].to(latents.device)[:, None, None])[None]
    if scale > 1:
        wide = torch.cat([small[..., -1:], small, small[..., :1]], dim=3)
        large = F.interpolate(wide, scale_factor=scale, mode="bilinear", align_corners=False)
        small = large[..., scale:-scale]
    return (small[0] / 2 + 0.5).clamp(0, 1).cpu()
