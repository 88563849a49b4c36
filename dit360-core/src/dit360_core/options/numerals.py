"""Numbers of other libraries as Python's own."""

from __future__ import annotations

import numbers
from typing import Any


def pythons(value: Any) -> Any:
    """A number of NumPy's, as its random generators give them, as Python's; anything else as it is."""
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        return float(value)
    return value
