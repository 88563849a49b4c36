"""Makes the pictures of docs/tiling.md: what blended tiles change, and what a decode does at the meridian.

make tiling-pictures
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dit360_core as dit360
import numpy as np
import torch
from dit360_core.models.flux.latents import as_stored
from dit360_core.panorama.metrics import seam_ratio
from dit360_core.plugins.builtin.tiling_exact import Exact
from dit360_core.plugins.builtin.tiling_others import Blended
from dit360_core.plugins.offers import TilingSettings
from dit360_core.sphere.vae import decode_whole
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).parent / "images"
PROMPT, SEED, WIDTH = "a forest behind a snowy field at dawn under pink clouds", 7, 1024
TILE, OVERLAP, TIMES = 256, 64, 8

Pixels = NDArray[np.float64]


def main() -> None:
    """Decode one panorama in four ways and show them."""
    pipe = dit360.load("tiny")
    latents = pipe.sample(pipe.encode(PROMPT), seed=SEED, width=WIDTH).tensor
    vae = pipe.engine.pipe.vae
    stored = as_stored(vae, latents)
    settings = TilingSettings(mode="always", level="recomputed", tile_size=TILE, tile_overlap=OVERLAP)
    with torch.no_grad():
        plain = vae.decode(stored, return_dict=False)[0]
    tiled = plain_tiles(vae, stored)
    whole = levels(decode_whole(vae, stored))
    made = {
        "exact": levels(Exact(settings).decode(vae, stored)),
        "blended": levels(Blended(settings).decode(vae, stored)),
        "plain": levels(plain),
        "diffusers' tiles": levels(tiled),
    }
    for name, picture in made.items():
        error, step = np.abs(picture - whole), seam_ratio(picture / 255)
        print(f"{name:18} max {error.max():6.2f}  mean {error.mean():.3f}  step at the meridian {step:.2f}")
    changed = {name: 128.0 + TIMES * (picture - whole) for name, picture in made.items()}
    difference = sheet(
        {
            "blended tiles": made["blended"],
            f"what blended tiles change, {TIMES} times": changed["blended"],
            "exact tiles": made["exact"],
            f"what exact tiles change, {TIMES} times": changed["exact"],
        },
        columns=2,
    )
    half = (difference.width // 2, difference.height // 2)
    difference.resize(half, Image.Resampling.LANCZOS).save(IMAGES / "tiling-difference.jpg", quality=90)
    order = ("plain", "diffusers' tiles", "blended", "exact")
    sheet({name: meridian(made[name]) for name in order}, columns=4).save(IMAGES / "tiling-meridian.png", optimize=True)


def plain_tiles(vae: Any, stored: torch.Tensor) -> torch.Tensor:
    """diffusers' own tiles as they are: nothing wraps."""
    before = vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = True, TILE // 8, TILE
    try:
        with torch.no_grad():
            return vae.decode(stored, return_dict=False)[0]  # type: ignore[no-any-return]
    finally:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = before


def levels(pixels: torch.Tensor) -> Pixels:
    """Grey levels, 0 … 255, not rounded."""
    return ((pixels[0].permute(1, 2, 0).double().numpy() / 2 + 0.5).clip(0, 1)) * 255


def meridian(picture: Pixels) -> Pixels:
    """The middle of the picture rolled by half a turn, four times as large."""
    rolled = np.roll(picture, picture.shape[1] // 2, axis=1)
    height, width = rolled.shape[:2]
    part = rolled[height // 2 - 40 : height // 2 + 24, width // 2 - 32 : width // 2 + 32]
    return part.repeat(4, axis=0).repeat(4, axis=1)


def sheet(pictures: dict[str, Pixels], columns: int) -> Image.Image:
    """Pictures beside each other with their names."""
    height, width = next(iter(pictures.values())).shape[:2]
    rows = -(-len(pictures) // columns)
    made = Image.new("RGB", (columns * (width + 8) - 8, rows * (height + 24)), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(18)
    for i, (name, picture) in enumerate(pictures.items()):
        x, y = (i % columns) * (width + 8), (i // columns) * (height + 24)
        draw.text((x + 4, y + 3), name.strip(), "black", font)
        made.paste(Image.fromarray(picture.clip(0, 255).round().astype(np.uint8)), (x, y + 24))
    return made


if __name__ == "__main__":
    main()
