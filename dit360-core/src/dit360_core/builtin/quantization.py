"""Weights as they were loaded, and the core's own int8."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.hookspecs import hookimpl
from dit360_core.offers import Quantizer, QuantizerImplementation


def _none() -> None:
    return None


def _int8() -> QuantizerImplementation:
    from dit360_core.builtin.int8 import Int8

    return Int8()


@hookimpl
def dit360_quantizers() -> Iterable[Quantizer]:
    yield Quantizer(name="none", api=1, error=0.0, summary="weights as they were loaded", load=_none)
    yield Quantizer(
        name="int8",
        api=1,
        priority=10,
        bits=8.1,
        error=0.03,
        summary="8-bit weights, a scale a channel; on x86 CPUs with VNNI or AVX2 computed in integers",
        load=_int8,
    )
