"""A picture that shows nothing is told: guidance that a model cannot bear, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dit360_core.errors import Dit360Error, named, setting

if TYPE_CHECKING:
    import torch

    from dit360_core.planning.guidance import Guided
    from dit360_core.plugins.offers import Model

log = logging.getLogger("dit360")

MOST_TRUE_GUIDANCE = 10.0
"""Beyond it colours are burnt with any model: pixels leave 0 … 1 by as much as guidance multiplies differences."""
_SHOWN = 1.5 / 255
"""A step of a byte is what rounding alone can do."""
_DARK, _BRIGHT = 3.5 / 255, 251.5 / 255
_MOSTLY = 0.95


def guidance_notes(model: Model, guided: Guided) -> Iterator[str]:
    """Sentences about guidance beyond what a model paints well with.

    guided: of the picture.
    """
    yield from _notes(model, guided.number, guided.beside)


def _notes(model: Model, guidance: float | None, true_guidance: float) -> Iterator[str]:
    """guidance: None where the model takes none."""
    low, high = model.guidance_range
    if guidance is not None and not low <= guidance <= high:
        yield (
            f"{named('guidance')} is {guidance:g}, and this model paints well at {low:g} … {high:g}: beyond that "
            "pictures turn dull, black or white."
        )
    if true_guidance > MOST_TRUE_GUIDANCE:
        yield (
            f"{named('true_guidance')} is {true_guidance:g}, and above {MOST_TRUE_GUIDANCE:g} colours are burnt with "
            "any model; 2 … 5 is usual."
        )


def check_painted(pixels: torch.Tensor, settings: Mapping[str, Any], model: Model) -> None:
    """Raises Dit360Error for a sampled picture that is one colour; warns of one that is nearly all black or white.

    pixels: ``(1, 3, H, W)`` in 0 … 1.
    settings: of the latents; those that were not sampled here may be anything.
    """
    if "prompt" not in settings:
        return
    lowest, highest = pixels.amin((0, 2, 3)), pixels.amax((0, 2, 3))
    if bool((highest - lowest < _SHOWN).all()):
        colour = _colour(float(pixels.mean()))
        raise Dit360Error(f"The picture is {colour} all over, so nothing was painted; {_advice(settings, model)}.")
    plain = float(((pixels < _DARK) | (pixels > _BRIGHT)).float().mean())
    if plain > _MOSTLY:
        log.warning(
            "%.0f %% of the picture is plain black or white; if the prompt does not say so, %s.",
            100 * plain,
            _advice(settings, model),
        )


def _colour(mean: float) -> str:
    return "black" if mean < _DARK else "white" if mean > _BRIGHT else "one colour"


def _advice(settings: Mapping[str, Any], model: Model) -> str:
    """What to do, the likeliest reason first."""
    used = settings.get("used")
    used = used if isinstance(used, Mapping) else {}
    guidance, true_guidance = used.get("guidance"), used.get("true_guidance", 1.0)
    if any(_notes(model, guidance, true_guidance)):
        low, high = model.guidance_range
        given = [] if guidance is None or low <= guidance <= high else [f"{setting('guidance', f'{low:g} … {high:g}')}"]
        given += (
            [f"{named('true_guidance')} up to {MOST_TRUE_GUIDANCE:g}"] if true_guidance > MOST_TRUE_GUIDANCE else []
        )
        return f"use {' and '.join(given)}"
    return "try another precision, scheduler, attention backend or LoRA strength, or see whether the model is whole"
