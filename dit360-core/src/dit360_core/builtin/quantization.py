"""Weights as they were loaded, and the core's own int8 and fp8."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.hookspecs import hookimpl
from dit360_core.machine import Machine
from dit360_core.offers import QuantizationNeed, Quantizer, QuantizerImplementation, Reason


def _none() -> None:
    return None


def _int8() -> QuantizerImplementation:
    from dit360_core.builtin.int8 import Int8

    return Int8()


def _fp8() -> QuantizerImplementation:
    from dit360_core.builtin.fp8 import Fp8

    return Fp8()


def _no_float8(machine: Machine, need: QuantizationNeed) -> Iterable[Reason]:
    if need.device == "mps":
        yield Reason("dtype", "Apple's MPS has no float8", "use int8")


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
    yield Quantizer(
        name="fp8",
        api=1,
        # Below int8, whose weights are as small and nearer, until a GPU has shown what multiplying in float8 gains.
        priority=5,
        bits=8.1,
        error=0.03,
        summary="float8 weights, a scale a channel; on CUDA from capability 8.9 on computed in float8",
        unsupported=_no_float8,
        load=_fp8,
    )
