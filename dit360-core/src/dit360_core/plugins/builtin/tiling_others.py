"""For autoencoders that cannot be taken apart: one piece, or diffusers' own tiles where they must be cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from dit360_core.plugins import Reason, TilingSettings
from dit360_core.sphere.vae import (
    Step,
    cuts_tiles,
    decode_blended,
    decode_whole,
    decoder_steps,
    encode_blended,
    encode_whole,
    encoder_steps,
    is_run_by_steps,
    make_schedule,
    pixels_per_latent,
    predict_whole,
)


class Whole:
    """One piece whatever the size; the meridian is no edge."""

    def __init__(self, settings: TilingSettings) -> None:
        self.report: dict[str, Any] = {"tiles": 1}

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return decode_whole(vae, latents)

    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        return encode_whole(vae, pixels)

    def predicts(self, vae: Any, shape: tuple[int, ...], device: str, room_for_it: int | None) -> dict[str, Any]:
        return _in_one_piece(vae, decoder_steps(vae), shape, device)

    def predicts_encoding(
        self, vae: Any, shape: tuple[int, ...], device: str, room_for_it: int | None
    ) -> dict[str, Any]:
        return _in_one_piece(vae, encoder_steps(vae), shape, device)


def _in_one_piece(vae: Any, steps: Sequence[Step], shape: tuple[int, ...], device: str) -> dict[str, Any]:
    height, width = shape[2:]
    work = make_schedule(steps, height, width, 4, "stored", tile_size=8192).multiplications
    by_steps, scores = is_run_by_steps(vae), device not in ("cpu", "cuda")
    bytes_ = predict_whole(steps, height, width, vae.dtype.itemsize, by_steps=by_steps, scores=scores)
    return {"bytes": bytes_, "level": "whole", "operations": 2 * work}


class Blended:
    """Overlapping tiles, each with statistics of its own, blended; the meridian is blended like any other edge."""

    def __init__(self, settings: TilingSettings) -> None:
        self._settings = settings
        self.report: dict[str, Any] = {}

    def refuses(self, vae: Any) -> Iterable[Reason]:
        if not cuts_tiles(vae):
            yield Reason("structure", f"a {type(vae).__name__} has no tiles of its own")

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        tile, overlap = self._sizes(vae, *latents.shape[2:])
        pixels, self.report["tiles"] = decode_blended(vae, latents, tile, overlap)
        return pixels

    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        factor = pixels_per_latent(vae)
        tile, overlap = self._sizes(vae, pixels.shape[2] // factor, pixels.shape[3] // factor)
        latents, self.report["tiles"] = encode_blended(vae, pixels, tile, overlap)
        return latents

    def _sizes(self, vae: Any, height: int, width: int) -> tuple[int, int]:
        """Tile and overlap in latent columns. The overlap is at most half the tile; two tiles or more where asked."""
        factor = pixels_per_latent(vae)
        tile = max(1, self._settings.tile_size // factor)
        if self._settings.mode == "always" or 0 < self._settings.auto_tile_pixels < height * width * factor**2:
            tile = min(tile, max(1, -(-max(height, width) // 2)))
        overlap = min(self._settings.tile_overlap // factor, tile // 2)
        self.report = {"tile_size": tile * factor, "tile_overlap": overlap * factor}
        return tile, overlap
