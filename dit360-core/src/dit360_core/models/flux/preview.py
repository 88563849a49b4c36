"""A linear look at latents: what each of their pixels will be on average, in a fraction of a millisecond."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from dit360_core.models.flux.engine import as_stored
from dit360_core.sphere.vae import circular_twin

# FLUX.1's model-space latents → RGB in −1 … 1, and what is added. Figures: ComfyUI, comfy/latent_formats.py (Flux).
_FLUX = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.0210, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.0280, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
)
_FLUX_ADDED = (-0.0329, -0.0718, -0.0851)

_PATCHES, _SIDE = 64, 4
"""Uniform patches of latents that another autoencoder's factors are fitted to, and their side."""


def latent_to_rgb(vae: Any, device: torch.device | str = "cpu") -> torch.Tensor:
    """Factors ``(C + 1, 3)`` float32 on the CPU: model-space latents, and a 1, to RGB in −1 … 1.

    device: where the autoencoder computes, which need not be where its weights rest.
    FLUX.1's are known; those of any other autoencoder are fitted (least squares) to what it makes of uniform patches.
    """
    config = vae.config
    if (config.latent_channels, config.scaling_factor, config.shift_factor) == (16, 0.3611, 0.1159):
        return torch.tensor((*_FLUX, _FLUX_ADDED))
    channels = int(config.latent_channels)
    generator = torch.Generator().manual_seed(0)
    colours = 0.5 * torch.randn(_PATCHES, channels, 1, 1, generator=generator)
    patches = as_stored(vae, colours).expand(-1, -1, _SIDE, _SIDE).to(device, vae.dtype)
    twin: Any = circular_twin(vae)
    with torch.no_grad():
        pixels = torch.cat([twin.decode(patch, return_dict=False)[0] for patch in torch.split(patches, 8)])
    # The middle only: the borders of a patch know that they are borders.
    inner = pixels.float().cpu()[..., pixels.shape[2] // 4 : -(pixels.shape[2] // 4), :]
    wanted = inner.mean((2, 3))
    given = torch.cat([colours.flatten(1), torch.ones(_PATCHES, 1)], dim=1)
    fitted: torch.Tensor = torch.linalg.lstsq(given, wanted).solution
    return fitted


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
