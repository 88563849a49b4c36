"""What the core offers for running the autoencoder over a panorama: exactly, in one piece, or blended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dit360_core.plugins import Machine, Reason, Tiling, TilingNeed, TilingSettings, hookimpl, setting

if TYPE_CHECKING:
    from dit360_core.plugins.offers import TilingImplementation


def _exact(settings: TilingSettings) -> TilingImplementation:
    from dit360_core.plugins.builtin.tiling_exact import Exact

    return Exact(settings)


def _whole(settings: TilingSettings) -> TilingImplementation:
    from dit360_core.plugins.builtin.tiling_others import Whole

    return Whole(settings)


def _blended(settings: TilingSettings) -> TilingImplementation:
    from dit360_core.plugins.builtin.tiling_others import Blended

    return Blended(settings)


def _no_levels(need: TilingNeed) -> Iterable[Reason]:
    if need.level != "auto":
        yield Reason(
            "mode",
            f"it has no levels and {setting('tiling_level', need.level)} asks for one",
            f"use {setting('tiling_level', 'auto')}",
        )


def _one_piece_only(machine: Machine, need: TilingNeed) -> Iterable[Reason]:
    yield from _no_levels(need)
    if need.mode == "always":
        yield Reason(
            "mode",
            f"it decodes in one piece and {setting('tiling_mode', 'always')} asks for more",
            f"use {setting('tiling_mode', 'auto')}",
        )
    elif need.mode == "auto" and 0 < need.auto_tile_pixels < need.width * need.height:
        yield Reason(
            "size",
            f"it decodes in one piece, and more than {need.auto_tile_pixels} pixels are to be cut",
            f"use {setting('tiling_mode', 'never')}",
        )


def _tiles_only(machine: Machine, need: TilingNeed) -> Iterable[Reason]:
    yield from _no_levels(need)
    if need.mode == "never":
        yield Reason(
            "mode",
            f"it cuts tiles and {setting('tiling_mode', 'never')} asks for one piece",
            f"use {setting('tiling_mode', 'auto')}",
        )


@hookimpl
def dit360_tilings() -> Iterable[Tiling]:
    yield Tiling(
        name="exact",
        api=1,
        exact=True,
        summary="as one piece, in a fraction of its memory; no seam",
        load=_exact,
    )
    yield Tiling(
        name="whole",
        api=1,
        priority=-10,
        exact=True,
        summary="one piece, wrapped in longitude: no seam; for any autoencoder of convolutions",
        unsupported=_one_piece_only,
        load=_whole,
    )
    yield Tiling(
        name="blended",
        api=1,
        priority=-20,
        exact=False,
        summary="diffusers' overlapping tiles, wrapped: tones differ from tile to tile",
        unsupported=_tiles_only,
        load=_blended,
    )
