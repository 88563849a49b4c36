"""Tells what there is to tell of a file, whichever it is."""

from __future__ import annotations

import os
from pathlib import Path

from dit360_core.cli.work import picture, weights
from dit360_core.models.weights.forms.opening import looks_like_weights


def tell(file: Path, as_json: bool) -> None:
    """Prints a report on a picture or on a file of weights: a table, or JSON."""
    if os.path.isfile(file) and looks_like_weights(file.name):
        weights.tell(file, as_json)
    else:
        picture.tell(file, as_json)
