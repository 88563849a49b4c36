"""The options of one picture, which a line of a list or a request may say, and not those of the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dit360_core.errors import InputError, named
from dit360_core.options.building import nearest
from dit360_core.options.decode import DecodeOptions
from dit360_core.options.edit import EditOptions, PhotoOptions
from dit360_core.options.facts import options_of
from dit360_core.options.larger import LargerOptions
from dit360_core.options.load import LoadOptions
from dit360_core.options.sample import SampleOptions

OF_A_PICTURE: tuple[type, ...] = (SampleOptions, EditOptions, PhotoOptions, DecodeOptions)
OF_A_LINE: tuple[type, ...] = (*OF_A_PICTURE, LargerOptions)
"""Those of a picture, and of how it is made larger."""


def check_of_a_picture(
    names: Iterable[str], *, classes: Iterable[type] = OF_A_PICTURE, own: Iterable[str] = (), instead: str
) -> None:
    """Raises InputError for a name that is none of a picture's options.

    classes: whose options may be said.
    own: names that are known beside them.
    instead: what to do about an option of the model, in the imperative.
    """
    known = [*own, *(name for cls in classes for name in options_of(cls))]
    for name in names:
        if name in known:
            continue
        if name in options_of(LoadOptions):
            raise InputError(f"{named(name)} belongs to the model, which is loaded once; {instead}.")
        raise InputError(f"there is no option {name!r:.80}; {nearest(difflib.get_close_matches(name, known, n=3))}")
