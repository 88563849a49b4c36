"""What the names and shapes of tensors tell of a model, whichever family's."""

from __future__ import annotations

import re
from collections.abc import Mapping

Shape = tuple[int, ...]


def first_of(shapes: Mapping[str, Shape], *names: str) -> Shape:
    """The shape of the first of these tensors that is there; empty if none is."""
    return next((shapes[name] for name in names if name in shapes), ())


def blocks_in(shapes: Mapping[str, Shape], called: str) -> int:
    """How many blocks there are.

    called: pattern of what stands before their numbers.
    """
    numbers = {int(match[1]) for name in shapes if (match := re.match(rf"{called}\.(\d+)\.", name))}
    return max(numbers, default=-1) + 1
