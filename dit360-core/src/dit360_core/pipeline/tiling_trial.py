"""A plugin's tiling on a small picture before the first large one: its sign, its gain and its mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import attrs
import torch

from dit360_core.pipeline.stages import ends_the_program
from dit360_core.plugins.offers import TilingSettings
from dit360_core.sphere.vae import decode_whole, encode_whole
from dit360_core.system.memory import is_out_of_memory

_ROWS, _COLUMNS = 16, 32
"""Latents of the small picture."""
_GAIN, _MEAN, _ALIKE = (0.5, 2.0), 0.5, 0.3
"""Of a tiling that does not claim to be exact, whose tiles may each have a contrast of their own."""
_EXACT_GAIN = 0.01
_EXACT = {torch.float32: 0.01, torch.float64: 0.01}
"""Largest error of one that does, in standard deviations; 0.25 in the other dtypes."""


def sketch(
    load: Callable[[TilingSettings], Any],
    settings: TilingSettings,
    vae: Any,
    channels: int,
    *,
    exact: bool,
    what: Literal["decode", "encode"],
) -> str:
    """What is wrong with a tiling, as half a sentence; empty if nothing is.

    load: gives a new one.
    settings: those of the picture; it is tried with small tiles, too, unless it is not to cut.
    vae: at hand.
    what: ``decode`` or ``encode``. What it raises, other shapes, or numbers that are not finite are left to the
    picture, which tells them where they arise. torch's own random numbers are as before.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (_ROWS, _COLUMNS) if what == "decode" else (8 * _ROWS, 8 * _COLUMNS)
    noise = torch.randn(1, channels if what == "decode" else 3, rows, columns, generator=generator)
    weight = next(iter(vae.parameters()))
    given = (noise if what == "decode" else noise.clamp(-1, 1)).to(weight.device, vae.dtype)
    cut = attrs.evolve(settings, mode="always", tile_size=128, tile_overlap=32)
    asked = [settings] if settings.mode == "never" else [settings, cut]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        right = (decode_whole if what == "decode" else encode_whole)(vae, given).float()
        for one in asked:
            try:
                found = getattr(load(one), what)(vae, given.clone())
                told = _wrong(found, right, exact, vae.dtype)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin's, whatever it is
                if ends_the_program(error) or is_out_of_memory(error):
                    raise
                told = ""
            if told:
                how = "" if one is settings else " in small tiles"
                return f"a small picture that it {what}s{how} has {told}"
    return ""


def _wrong(found: Any, right: torch.Tensor, exact: bool, dtype: torch.dtype) -> str:
    if not isinstance(found, torch.Tensor) or found.shape != right.shape or not bool(found.isfinite().all()):
        return ""
    spread, means = float(right.std()), (found.float().mean(), right.mean())
    mine, due = found.float() - means[0], right - means[1]
    gain = float((mine * due).sum() / due.square().sum())
    mean = abs(float(means[0] - means[1])) / spread
    least, most = (1 - _EXACT_GAIN, 1 + _EXACT_GAIN) if exact else _GAIN
    if not least <= gain <= most:
        return f"a gain of {gain:.3g}, where {least:.3g} to {most:.3g} is allowed"
    if not mean <= (_EXACT_GAIN if exact else _MEAN):
        allowed = _EXACT_GAIN if exact else _MEAN
        return f"a mean that is off by {mean:.2g} standard deviations, where {allowed:.2g} is allowed"
    if exact:
        error, allowed = float((found.float() - right).abs().max()) / spread, _EXACT.get(dtype, 0.25)
        off = f"numbers that are off by up to {error:.2g} standard deviations, where {allowed:.2g} is allowed"
        return "" if error <= allowed else f"{off}, since it claims to be exact"
    alike = float((mine * due).sum() / (mine.norm() * due.norm()))
    if math.isfinite(alike) and alike < _ALIKE:
        return f"a correlation of {alike:.2g} with the untiled one, where {_ALIKE:.2g} is the least"
    return ""
