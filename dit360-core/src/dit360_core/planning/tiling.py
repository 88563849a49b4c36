"""How a picture is tiled: the settings of its options, and the tiling that is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.errors import BackendUnavailable, InputError, Reason, setting
from dit360_core.options import DecodeOptions, LoadOptions, budget_of
from dit360_core.plugins.choosing import Choice, in_words, select
from dit360_core.plugins.offers import Need, TilingNeed, TilingSettings
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine


def tiling_settings(loading: LoadOptions, decoding: DecodeOptions) -> TilingSettings:
    """How to tile one picture: what was said when loading, unless the picture says otherwise."""
    size, overlap, pixels = (
        decoding.tile_size_override,
        decoding.tile_overlap_override,
        decoding.max_tile_pixels_override,
    )
    return TilingSettings(
        mode=decoding.tiling_mode,
        level=decoding.tiling_level,
        tile_size=size or loading.vae_tile_size,
        tile_overlap=loading.vae_tile_overlap if overlap < 0 else overlap,
        auto_tile_pixels=loading.vae_auto_tile_pixels if pixels < 0 else pixels,
        budget=(budget_of(loading.vram) or 0) if loading.vram else 0,
    )


def choose_tiling(
    requested: str,
    settings: TilingSettings,
    width: int,
    height: int,
    *,
    registry: Registry,
    machine: Machine,
    precision: str,
    vae: Any = None,
) -> tuple[Choice, Any]:
    """How a ``width × height`` picture is decoded or encoded.

    vae: the autoencoder, which a tiling may refuse. Before it is there offers are judged but none is loaded, and the
    second result is None.

    Raises InputError for a level that this device cannot have, UnknownName, or BackendUnavailable with the reasons of
    every candidate.
    """
    if settings.level == "offloaded" and machine.device != "cuda":
        raise InputError(
            f"{setting('tiling_level', 'offloaded')} moves tiles from a CUDA device to system memory, and this runs on "
            f"{machine.device}; use {setting('tiling_level', 'recomputed')}, the smallest here."
        )
    need = TilingNeed(
        device=machine.device,
        dtype=precision,
        width=width,
        height=height,
        mode=settings.mode,
        auto_tile_pixels=settings.auto_tile_pixels,
        level=settings.level,
    )

    def load(offer: Any) -> Any:
        return None if vae is None else offer.load(settings)

    def probe(tiling: Any, machine: Machine, need: Need) -> Iterable[Reason]:
        return tiling.refuses(vae) if hasattr(tiling, "refuses") else ()

    try:
        return select("tiling", requested, registry, machine, need, probe=probe, load=load)
    except BackendUnavailable as error:
        if requested != "auto":
            raise
        told = in_words(error.reasons.items())
        raise BackendUnavailable(
            f"Nothing installed makes {width}×{height} with {setting('tiling_mode', settings.mode)}: {told}.",
            error.reasons,
        ) from None
