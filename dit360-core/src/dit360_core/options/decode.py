"""What is decided when latents become a picture, or a picture latents."""

from __future__ import annotations

import attrs

from dit360_core.errors import InputError, remedy, setting
from dit360_core.options.choices import TILING_LEVELS, TILING_MODES
from dit360_core.options.declaring import option


@attrs.frozen(kw_only=True)
class DecodeOptions:
    """What is decided when latents become a picture, or a picture latents."""

    tiling_mode: str = option(
        "auto",
        help="Run the autoencoder in tiles: always, never (one piece whatever the size), or auto (as size and memory "
        "ask).",
        choices=TILING_MODES,
        named="tiling_mode",
    )
    tiling_backend: str = option("auto", help=f"How tiles are made; {remedy('see_backends')}.", offers="tiling")
    tiling_level: str = option(
        "auto",
        help="Exact tiles from fast to small: stored, mixed, recomputed; offloaded keeps them in system memory.",
        choices=TILING_LEVELS,
        named="level",
    )
    tile_size_override: int = option(
        0, help="Largest side of a tile, for this picture only. 0: as loaded.", minimum=0, maximum=8192, step=64
    )
    tile_overlap_override: int = option(
        -1,
        help="Pixels by which tiles overlap, for this picture only. -1: as loaded.",
        minimum=-1,
        maximum=1024,
        step=16,
    )
    max_tile_pixels_override: int = option(
        -1,
        help="Pixels above which auto cuts anyhow, for this picture only. -1: as loaded; 0: no such limit.",
        minimum=-1,
        maximum=268435456,
    )

    def __attrs_post_init__(self) -> None:
        if self.tiling_mode == "never" and self.tiling_level != "auto":
            raise InputError(
                f"{setting('tiling_level', self.tiling_level)} has no effect with {setting('tiling_mode', 'never')}, "
                f"which makes one piece; use {setting('tiling_mode', 'auto')} or leave the level out."
            )
