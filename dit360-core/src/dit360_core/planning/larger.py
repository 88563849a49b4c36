"""What is asked of a larger picture that is made of a panorama. It imports no torch."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping
from typing import Any

import attrs
from PIL.Image import Image

from dit360_core.errors import InputError, named
from dit360_core.options import (
    DecodeOptions,
    EditOptions,
    LargerOptions,
    SampleOptions,
    build,
    changed_options,
    options_of,
)
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.panorama.picture import Panorama, prompt_in
from dit360_core.plugins.offers import Model

MOST = 16384
"""Pixels of the widest picture."""
LEAST_STEPS = 4
NO_NUMBERS = ("log_memory_stats",)
"""Options that decide about none."""
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
    asked = asked_but_steps(image, prompt, to, options)
    if asked.steps is None:
        asked = attrs.evolve(asked, steps=steps_of(model.steps, asked.denoise))
    return asked


def asked_but_steps(image: Panorama | Image, prompt: str | None, to: int, options: Mapping[str, Any]) -> SampleOptions:
    """The options of the larger picture, without the steps where none are asked for: they take the model.

    image, prompt, to, options: as for :func:`asked_of`, whose errors it raises.
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
    return build(SampleOptions, given, beside=DecodeOptions)


def told_of(asked: SampleOptions, editing: EditOptions, mask: Image | None) -> dict[str, Any]:
    """What is asked of a run as its state tells it, by names of which one that is not there is None.

    asked: the seed and the steps as they were given.
    mask: in grey, if there is one.

    The height is left out, which follows from the width.
    """
    names = {*options_of(SampleOptions), *options_of(EditOptions)} - {"height", *NO_NUMBERS}
    names -= {"steps"} if asked.steps is None else set()
    changed = {**changed_options(asked), **changed_options(editing)}
    return {**{name: changed.get(name) for name in names}, "mask": mask_told(mask)}


def mask_told(mask: Image | None) -> str:
    """A mask as the state of a run tells it; nothing where there is none."""
    return "" if mask is None else hashlib.sha256(mask.tobytes()).hexdigest()


def source_told(levels: bytes) -> str:
    """The smaller picture as the state of a run tells it.

    levels: its colours, of 8 bits.
    """
    return hashlib.sha256(levels).hexdigest()


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
