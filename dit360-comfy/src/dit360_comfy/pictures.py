"""ComfyUI's IMAGE and MASK as the core has them: planes of one picture, on the CPU, looked at first."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dit360_core.errors import InputError
from PIL import Image

from dit360_comfy import host

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

SHAPES_DIFFER = 0.02
"""Of width over height, from which on two pictures are not of one shape."""


def check_pictures(image: Any, name: str) -> None:
    """Raises InputError for what is no IMAGE ``[B, H, W, C]`` in grey, RGB or RGBA, or holds what is no number.

    name: of the input.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise InputError(f"{name} has the shape {tuple(image.shape)}, but must be pictures in RGB.")
    if not bool(image.isfinite().all()):
        raise InputError(f"{name} holds numbers that are not finite; something before it failed.")


def pictures(image: Any, name: str) -> torch.Tensor:
    """``(B, 3, H, W)`` fp32 of an IMAGE ``[B, H, W, C]``. An alpha channel is left out: ComfyUI has it as a MASK.

    name: of the input, for errors.

    Raises InputError for what is no picture in grey or RGB.
    """
    check_pictures(image, name)
    planes = host.plain(image[..., :3]).permute(0, 3, 1, 2)
    return planes.expand(-1, 3, -1, -1).contiguous()


def panoramas(image: Any, name: str) -> torch.Tensor:
    """As :func:`pictures`. Raises InputError for pictures that are not twice as wide as high, too."""
    planes = pictures(image, name)
    height, width = planes.shape[-2:]
    if width != 2 * height:
        raise InputError(
            f"{name} has {width}×{height} pixels, and a panorama is twice as wide as high; Equirect 360 Process makes "
            "it so, and DiT360 Photo to Panorama puts a photo on one."
        )
    return planes


def to_comfy(planes: Sequence[torch.Tensor]) -> torch.Tensor:
    """IMAGE of pictures ``(3, H, W)`` of one size."""
    import torch

    return torch.stack(list(planes)).permute(0, 2, 3, 1).contiguous()


def masks(mask: Any, name: str) -> torch.Tensor:
    """``(B, H, W)`` fp32 in 0 … 1 of a MASK ``[B, H, W]`` or ``[H, W]``, or a LATENT's ``[B, 1, H, W]``.

    name: of the input, for errors.

    Raises InputError for what is none.
    """
    if mask.ndim == 4 and mask.shape[1] != 1 and bool((mask != mask[:, :1]).any()):
        raise InputError(f"{name} says something else for each channel, and here each latent has one number.")
    levels = host.plain(mask[:, 0] if mask.ndim == 4 else mask if mask.ndim == 3 else mask[None])
    if levels.ndim != 3 or not levels.numel():
        raise InputError(f"{name} has the shape {tuple(mask.shape)}, which is no mask's.")
    if not bool(levels.isfinite().all()):
        raise InputError(f"{name} holds numbers that are not finite; something before it failed.")
    return levels.clamp(0, 1)


def at_size(mask: torch.Tensor, size: tuple[int, int], name: str) -> torch.Tensor:
    """``(H, W)``: a mask at the size of a panorama, its longitude wrapped.

    mask: ``(h, w)`` in 0 … 1. One that says the same everywhere, as Load Image's does of a picture without
    transparency, may be of any size.
    size: (width, height) in pixels.
    name: of the input, for errors.

    Raises InputError if it is not twice as wide as high.
    """
    width, height = size
    high, wide = mask.shape
    if (wide, high) == size:
        return mask
    if bool((mask == mask[0, 0]).all()):
        return mask[0, 0].expand(height, width).clone()
    if wide != 2 * high:
        raise InputError(
            f"{name} has {wide}×{high} pixels, and a panorama is twice as wide as high; paint it over the panorama "
            f"itself, or resize it to {width}×{height}."
        )
    return resized(mask[None], size, "bilinear")[0]


def on_flat(mask: torch.Tensor, size: tuple[int, int], name: str) -> torch.Tensor:
    """``(H, W)``: a mask at the size of a flat picture.

    mask: ``(h, w)`` in 0 … 1; one that says the same everywhere may be of any size.
    size: (width, height) in pixels.
    name: of the input, for errors.

    Raises InputError if it is of another shape.
    """
    import torch

    width, height = size
    high, wide = mask.shape
    if (wide, high) == size:
        return mask
    if bool((mask == mask[0, 0]).all()):
        return mask[0, 0].expand(height, width).clone()
    # Sizes that are rounded to whole pixels may be off by some.
    if abs(wide / high / (width / height) - 1) > SHAPES_DIFFER:
        raise InputError(f"{name} has {wide}×{high} pixels, and its picture {width}×{height}; give one of that shape.")
    larger = torch.nn.functional.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True)
    return larger[0, 0].clamp(0, 1)


def resized(planes: torch.Tensor, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """``(C, H, W)`` in 0 … 1: a panorama's planes ``(C, h, w)`` at another size, their longitude wrapped.

    size: (width, height) in pixels.
    mode: of PyTorch's interpolation.
    """
    import torch

    width, height = size
    wide = int(planes.shape[-1])
    # Some columns of the other side on either side, as many as make whole columns of the other size.
    unit = wide // math.gcd(wide, width)
    margin = min(wide, unit * math.ceil(max(16, 4 * wide / width) / unit))
    beyond = margin * width // wide
    around = torch.cat([planes[..., -margin:], planes, planes[..., :margin]], dim=-1)[None]
    found = torch.nn.functional.interpolate(around, (height, width + 2 * beyond), mode=mode, antialias=True)
    return found[0, :, :, beyond : beyond + width].clamp(0, 1)


def of_batch(several: Any, at: int) -> Any:
    """The one of a batch that belongs to the picture ``at`` of another: a shorter one begins anew, as in ComfyUI."""
    return several[at % len(several)]


def tell_of_more(several: Any, name: str, count: int, other: str) -> None:
    """Warns if a batch has more than there are of another, since ComfyUI's own nodes leave those out as well.

    name: of the input.
    count: of the other.
    other: that input's name.
    """
    if len(several) > count:
        log.warning("%s is a batch of %d, and %s of %d; the rest is left out.", name, len(several), other, count)


def grey(mask: torch.Tensor) -> Image.Image:
    """``(H, W)`` in 0 … 1 as a picture of Pillow in grey."""
    return Image.fromarray(np.asarray((mask.clamp(0, 1) * 255).round().byte()))
