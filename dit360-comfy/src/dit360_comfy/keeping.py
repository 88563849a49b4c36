"""What a larger panorama keeps of the smaller one, carried from where latents are made to where they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dit360_core.pipeline.upscaling import Keeping

from dit360_comfy.settings import ride, riding

_SMALLER = "dit360_smaller"


def keeping(samples: Any, several: Sequence[Keeping]) -> Any:
    """Returns the samples of a LATENT, with what each of its pictures keeps."""
    return ride(samples, tuple(several), _SMALLER)


def kept_by(samples: Any) -> tuple[Keeping, ...]:
    """What :func:`keeping` put on the samples of a LATENT; empty where nothing is known."""
    return riding(samples, _SMALLER) or ()
