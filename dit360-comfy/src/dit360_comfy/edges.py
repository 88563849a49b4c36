"""The shape of a panorama and the step over its edge: what a picture from elsewhere may lack."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError
from dit360_core.panorama.metrics import seam

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

FIX_MODES = ("none", "crop", "pad", "stretch")
BLEND_MODES = ("linear", "cosine", "smooth")
SHOWS = 1.25
"""Seam ratio up to which a step over the edge is like any other."""


def fitted(image: torch.Tensor, mode: str) -> torch.Tensor:
    """Pictures ``[B, H, W, C]`` made twice as wide as high.

    crop cuts what is too much, evenly on both sides; pad repeats the outermost rows, or columns; stretch resamples
    (bicubic) to the width that there is, made even. Raises InputError for ``none`` if there is something to do.
    """
    import torch

    _, height, width, _ = image.shape
    if width == 2 * height:
        return image
    if mode == "none":
        raise InputError(
            f"The picture has {width}×{height} pixels, and a panorama is twice as wide as high; set fix_mode to crop, "
            "pad or stretch, or switch enforce_2_1_ratio off."
        )
    planes = image.permute(0, 3, 1, 2)
    if mode == "stretch":
        size = (max(1, width // 2), max(2, width // 2 * 2))
        planes = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True).clamp(0, 1)
    elif mode == "crop":
        high = min(height, width // 2)
        if high < 1:
            raise InputError(f"Nothing of a picture of {width}×{height} pixels is twice as wide as high; use stretch.")
        top, left = (height - high) // 2, (width - 2 * high) // 2
        planes = planes[:, :, top : top + high, left : left + 2 * high]
    else:
        high = max(height, math.ceil(width / 2))
        rows, columns = high - height, 2 * high - width
        margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        planes = torch.nn.functional.pad(planes, margins, mode="replicate")
    return planes.permute(0, 2, 3, 1).contiguous()


def blended(image: torch.Tensor, width: int, mode: str) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Pictures ``[B, H, W, C]`` whose step over the edge is taken out where it shows, and what was done to each.

    Each row's step beyond what its slope explains is shared by both sides, and fades over ``width`` columns: no content
    moves, and no other column gets a step. A picture whose edge is like any other column is left as it is, bit by bit.
    """
    import torch

    pairs = [_blended(one, min(width, image.shape[2] // 4), mode) for one in image]
    if not any(report["blended"] for _, report in pairs):
        return image, [report for _, report in pairs]
    return torch.stack([picture for picture, _ in pairs]), [report for _, report in pairs]


def _blended(image: torch.Tensor, width: int, mode: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """One picture ``[H, W, C]``."""
    import torch

    before = _ratio(image)
    if width < 1 or before <= SHOWS:
        log.info("Edges: nothing is blended, the step over the edge is %.2f times any other.", before)
        return image, {"blended": False, "seam_ratio": _finite(before)}
    faded = torch.arange(width, dtype=image.dtype, device=image.device) / width
    weight = {
        "linear": 1 - faded,
        "cosine": (1 + torch.cos(math.pi * faded)) / 2,
        "smooth": 1 - faded * faded * (3 - 2 * faded),
    }[mode]
    first, last = image[:, 0], image[:, -1]
    # What the neighbours' slopes, inwards on both sides, let one expect from one edge to the other.
    slope = ((image[:, 1] - first) + (last - image[:, -2])) / 2
    half = ((first - last) - slope)[:, None] / 2 * weight[None, :, None]
    out = image.clone()
    out[:, :width] -= half
    out[:, -width:] += half.flip(1)
    out = out.clamp_(0, 1)
    after = _ratio(out)
    log.info("Edges: the step over the edge was %.2f times any other and is %.2f times now.", before, after)
    told = {"blended": True, "width": width, "mode": mode}
    return out, {**told, "seam_ratio": _finite(before), "seam_ratio_after": _finite(after)}


def _ratio(image: torch.Tensor) -> float:
    """Infinite where most neighbouring columns are the same."""
    colours = image[..., :3].expand(-1, -1, 3)
    return float(seam((colours * 255).round().clamp(0, 255).byte().cpu().numpy()).ratio)


def _finite(ratio: float) -> float | None:
    # Files hold the settings as JSON, which knows no infinity.
    return round(ratio, 3) if math.isfinite(ratio) else None
