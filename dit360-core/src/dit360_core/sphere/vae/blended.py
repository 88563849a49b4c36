"""diffusers' own overlapping tiles, blended across the meridian too, for autoencoders that cannot be taken apart.

Not exact: each tile is normalized by its own moments and attends to itself alone, so tiles differ in tone and blending
only hides where. Rolling the latents does not quite roll the picture, since tiles stay where they are.
"""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import torch

from dit360_core.errors import ModelError
from dit360_core.sphere.vae.one_frame import one_frame
from dit360_core.sphere.vae.sizes import pixels_per_latent

_SQUARE = ("tile_latent_min_size", "tile_sample_min_size", "tile_overlap_factor", "use_tiling")
_SIDES = ("height", "width")
_RECTANGULAR = ("use_tiling", *(f"tile_sample_{what}_{side}" for what in ("min", "stride") for side in _SIDES))


def cuts_tiles(vae: Any) -> bool:
    """Whether an autoencoder of diffusers has overlapping tiles of its own."""
    return any(all(hasattr(vae, knob) for knob in knobs) for knobs in (_SQUARE, _RECTANGULAR))


def decode_blended(vae: Any, latents: torch.Tensor, tile: int, overlap: int) -> tuple[torch.Tensor, int]:
    """latents ``(B, C, h, w)`` → pixels ``(B, 3, 8h, 8w)`` about −1 … 1, and the number of tiles.

    tile, overlap: in latent columns; the overlap is less than the tile.

    Raises ModelError if the autoencoder has no tiles.
    """
    tiled, factor = _tiled(vae, tile, overlap)
    wrapped, tiles = _wrap(latents, overlap), _count(latents, tile, overlap)
    with torch.no_grad():
        pixels = tiled.decode(wrapped, return_dict=False)[0]
    return _close(pixels, overlap * factor, latents.shape[3] * factor), tiles


def encode_blended(vae: Any, pixels: torch.Tensor, tile: int, overlap: int) -> tuple[torch.Tensor, int]:
    """pixels ``(B, 3, 8h, 8w)`` → ``(B, C, h, w)``, the mean of the posterior, and the number of tiles."""
    tiled, factor = _tiled(vae, tile, overlap)
    wrapped = _wrap(pixels, overlap * factor)
    with torch.no_grad():
        found = tiled.encode(wrapped, return_dict=False)[0]
    latents = found.mode() if hasattr(found, "mode") else found
    columns = pixels.shape[3] // factor
    small = pixels[:, :1, ::factor, ::factor]
    return _close(latents, overlap, columns), _count(small, tile, overlap)


def _tiled(vae: Any, tile: int, overlap: int) -> tuple[Any, int]:
    """A second view of the autoencoder that cuts tiles, and its pixels to a latent column."""
    if not cuts_tiles(vae):
        raise ModelError(f"A {type(vae).__name__} has no tiles of its own to blend.")
    factor = pixels_per_latent(vae)
    # Settings are plain attributes; modules and weights are shared by a shallow copy.
    view = one_frame(copy.copy(vae), layers=False)
    view.use_tiling = True
    if hasattr(view, "tile_overlap_factor"):
        view.tile_latent_min_size, view.tile_sample_min_size = tile, tile * factor
        # diffusers truncates products with this factor; as a fraction they are whole numbers and not one too few.
        view.tile_overlap_factor = Fraction(overlap, tile)
        return view, factor
    for side in _SIDES:
        setattr(view, f"tile_sample_min_{side}", tile * factor)
        setattr(view, f"tile_sample_stride_{side}", (tile - overlap) * factor)
    return view, factor


def _wrap(sample: torch.Tensor, columns: int) -> torch.Tensor:
    """The sample with its first columns once more at its end, as often as the width asks."""
    width = sample.shape[3]
    return sample.index_select(3, torch.arange(width + columns, device=sample.device) % width)


def _close(result: torch.Tensor, overlap: int, width: int) -> torch.Tensor:
    """Fades from what was made after the end into the start, as between any two tiles; then cuts it off."""
    fading = min(overlap, width)
    start = result[..., :width].clone()
    if fading:
        share = torch.arange(fading, device=result.device, dtype=torch.float32).div_(fading).to(result.dtype)
        start[..., :fading] = torch.lerp(result[..., width : width + fading], start[..., :fading], share)
    return start


def _count(latents: torch.Tensor, tile: int, overlap: int) -> int:
    height, width = latents.shape[2], latents.shape[3] + overlap
    if height <= tile and width <= tile:
        return 1
    step = tile - overlap
    return -(-height // step) * -(-width // step)
