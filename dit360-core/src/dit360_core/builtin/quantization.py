"""No quantization: the weights stay as they were loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.hookspecs import hookimpl
from dit360_core.offers import Quantizer


class Unquantized:
    """Leaves a module as it is."""

    def apply(self, module: Any) -> None:
        return None


@hookimpl
def dit360_quantizers() -> Iterable[Quantizer]:
    yield Quantizer(name="none", api=1, summary="weights as they were loaded", load=Unquantized)
