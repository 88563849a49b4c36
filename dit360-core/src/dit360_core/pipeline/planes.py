"""Pictures of Pillow as planes of torch, and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from dit360_core.panorama.picture import Panorama


def pixels_of(image: Image.Image) -> torch.Tensor:
    """``(3, H, W)`` float32 in 0 … 1, or ``(4, H, W)`` with opacity.

    image: RGB or RGBA.
    """
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def numbers_of(panorama: Panorama) -> torch.Tensor:
    """``(3, H, W)`` float32 in 0 … 1: a panorama's colours before they were rounded, or else its pixels."""
    if panorama.floats is None:
        return pixels_of(panorama.image)
    return torch.from_numpy(np.ascontiguousarray(panorama.floats)).permute(2, 0, 1).clamp(0, 1)


def image_of(pixels: torch.Tensor) -> Image.Image:
    """A picture of bytes, rounded.

    pixels: ``(3, H, W)``, or ``(4, H, W)`` with opacity, on the CPU; what is outside of 0 … 1 is cut.
    """
    return Image.fromarray((pixels.clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy())
