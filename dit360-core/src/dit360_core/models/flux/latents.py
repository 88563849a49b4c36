"""FLUX's latents: how the autoencoder scales them, and what colours they are on average."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.models.preview import fitted

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


def as_stored(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents in model space as the autoencoder itself has them: neither scaled nor shifted."""
    return latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)  # type: ignore[no-any-return]


def latent_to_rgb(vae: Any, device: torch.device | str = "cpu") -> torch.Tensor:
    """Factors ``(C + 1, 3)`` float32 on the CPU: model-space latents, and a 1, to RGB in −1 … 1.

    vae: the autoencoder; FLUX.1's factors are known, those of any other are fitted to it.
    device: where it computes, which need not be where its weights rest.
    """
    config = vae.config
    if (config.latent_channels, config.scaling_factor, config.shift_factor) == (16, 0.3611, 0.1159):
        return torch.tensor((*_FLUX, _FLUX_ADDED))
    return fitted(vae, lambda latents: as_stored(vae, latents), device)
