"""Whether a picture is seen in windows, and in which."""

from __future__ import annotations

from dit360_core.options import SampleOptions
from dit360_core.options.sample import window_size
from dit360_core.planning.checks import picture_size
from dit360_core.plugins.offers import Model
from dit360_core.sphere.windows import Windows


def windows_of(asked: SampleOptions, model: Model) -> Windows | None:
    """The windows of a picture; None: it is seen at once.

    model: whose own size a window has where none is named.
    """
    if asked.windows == "never":
        return None
    size = (model.width, model.height) if asked.windows == "auto" else window_size(asked.windows)
    found = Windows.of_pixels(picture_size(asked, model), size)
    return None if found.one else found
