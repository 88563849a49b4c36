"""What is asked of a larger picture that is made of a panorama. It imports no torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import attrs
from PIL.Image import Image

from dit360_core.errors import InputError, named
from dit360_core.options import DecodeOptions, EditOptions, LargerOptions, SampleOptions, build, options_of
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.panorama.picture import Panorama, prompt_in
from dit360_core.plugins.offers import Model

MOST = 16384
"""Pixels of the widest picture."""
LEAST_STEPS = 4
STATE = ".state"
"""After the name of the output: what was computed, until the picture is there."""


def asked_of(
    image: Panorama | Image, prompt: str | None, to: int, options: Mapping[str, Any], model: Model
) -> SampleOptions:
    """The options of the larger picture.

    image, prompt, to, options: as for :meth:`Pipeline.upscale`.
    model: gives the steps of a whole run.

    Raises InputError for a picture without a prompt, and for a size that is none.
    """
    for name in ("width", "height"):
        if options.get(name) is not None:
            raise InputError(
                f"{named(name)} says nothing of a larger picture, whose width is {named('to')}; leave it out."
            )
    to = check_larger(image, to)
    words = prompt if prompt is not None else told_prompt(image)
    own = {
        name: value
        for name, value in options.items()
        if not any(name in options_of(cls) for cls in (DecodeOptions, EditOptions, LargerOptions))
    }
    given = {**USUAL_LARGER, **own, "prompt": words, "width": to}
    asked = build(SampleOptions, given, beside=DecodeOptions)
    if asked.steps is None:
        asked = attrs.evolve(asked, steps=steps_of(model.steps, asked.denoise))
    return asked


def steps_of(whole: int, denoise: float) -> int:
    """The steps of a larger picture when none are asked for.

    whole: steps of a whole run of the model.
    denoise: the share of them that is made again, in (0, 1].
    """
    return max(LEAST_STEPS, math.ceil(whole * denoise))


def check_larger(image: Panorama | Image, to: int) -> int:
    """The width, as a number of Python's. Raises InputError for what is no picture, and no width of a larger one.

    to: in pixels.
    """
    if not isinstance(image, Panorama | Image):
        raise InputError(
            f"{named('image')} must be a panorama or a picture, not {type(image).__name__}; open a file with "
            "Panorama.open."
        )
    try:
        to = operator.index(to)
    except TypeError:
        raise InputError(f"{named('to')} is {to!r:.80}, but must be a whole number of pixels.") from None
    check_width(to, above=image.width)
    check_wider(to, image.width)
    return to


def check_width(to: int, name: str = "to", *, above: int = 0) -> None:
    """Raises InputError for a width that no picture can have.

    to: in pixels.
    name: of the option that says so.
    above: width of the picture that is made larger, as far as it is known.
    """
    if to > MOST:
        raise InputError(f"{named(name)} is {to}, but must be at most {MOST}.")
    if to % 32:
        near = min(MOST, max(round(to / 32), above // 32 + 1) * 32)
        raise InputError(f"{named(name)} is {to}, but must be a multiple of 32; take {near}.")


def check_wider(to: int, width: int, name: str = "to") -> None:
    """Raises InputError unless ``to`` is wider than the picture, ``width`` pixels."""
    if to <= width:
        raise InputError(f"{named(name)} is {to}, and the picture is {width} wide already; name a larger width.")


def told_prompt(image: Panorama | Image) -> str:
    """The prompt that a picture's metadata tell. Raises InputError if they tell none."""
    found = prompt_in(image.settings) if isinstance(image, Panorama) else ""
    if not found:
        raise InputError("The picture does not say what it shows; give a prompt, such as 'a castle at sunset'.")
    return found
