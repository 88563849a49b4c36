"""Weights as they were loaded, and the core's own int8 and fp8."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.plugins import (
    LayerNeed,
    Machine,
    QuantizationNeed,
    Quantizer,
    QuantizerImplementation,
    Reason,
    hookimpl,
    setting,
)


def _none() -> None:
    return None


def _int8() -> QuantizerImplementation:
    from dit360_core.plugins.builtin.int8 import Int8

    return Int8()


def _fp8() -> QuantizerImplementation:
    from dit360_core.plugins.builtin.fp8 import Fp8

    return Fp8()


def _int8_scratch(need: LayerNeed) -> int:
    if need.device == "cpu":
        return _rounded_activations(need)
    return _turned_back(need)


def _rounded_activations(need: LayerNeed) -> int:
    # Of at most 2048 tokens: in float32, scaled, and in eight bits; their result in float32 and in their own dtype.
    return min(need.tokens, 2048) * (need.inputs * 9 + need.outputs * (4 + need.itemsize))


def _turned_back(need: LayerNeed) -> int:
    # Weights in float32 and in the dtype of the activations: all, or on a CPU pieces of two million.
    weights = need.inputs * need.outputs
    return (min(weights, 2**21) if need.device == "cpu" else weights) * (4 + need.itemsize)


def _only_parameters(machine: Machine, need: QuantizationNeed) -> Iterable[Reason]:
    if need.offload == "disk" and need.device == "cpu":
        yield Reason(
            "mode",
            f"{setting('offload', 'disk')} cannot move weights that are packed for a CPU",
            f"use fp8, or {setting('offload', 'none')}",
        )


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
        unsupported=_only_parameters,
        scratch=_int8_scratch,
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
        scratch=_turned_back,
        load=_fp8,
    )
