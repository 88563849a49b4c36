"""How a picture's file is written: what of a user's own defaults its format can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.cli.wording import current
from dit360_core.panorama.formats import BY_NAME, FORMATS


def usable(saving: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """What is asked of a file, without those defaults of a user's own that say nothing of its format.

    saving: for Panorama.save.
    output: whose ending says the format; one that says none is refused later.
    """
    asked, format = dict(saving), FORMATS.get(output.suffix.lower())
    if format is None:
        return asked
    own = current().taken.options
    if "bits" in own and asked["bits"] not in BY_NAME[format].bits:
        asked["bits"] = None
    if "expand_highlights" in own and format != "EXR":
        asked["expand_highlights"] = False
    return asked
