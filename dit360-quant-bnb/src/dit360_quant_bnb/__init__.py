"""bitsandbytes' four- and eight-bit weights as quantizers of dit360. Importing this does not import bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dit360_core.plugins import (
    Machine,
    QuantizationNeed,
    Quantizer,
    QuantizerImplementation,
    Reason,
    hookimpl,
    named,
    setting,
)

_REQUIRES = ("bitsandbytes>=0.50",)


def _unsupported(machine: Machine, need: QuantizationNeed) -> Iterable[Reason]:
    if need.device not in ("cpu", "cuda"):
        yield Reason("device", f"it runs on a CPU or a CUDA device, and this runs on {need.device}", "use int8")
    if need.dtype == "fp64":
        yield Reason("dtype", "bitsandbytes has no float64", f"use another {named('precision')}")
    if need.offload in ("sequential", "group", "disk"):
        yield Reason(
            "mode",
            f"{setting('offload', need.offload)} takes layers apart that bitsandbytes keeps in one piece",
            f"use {setting('offload', 'model')}, or int8",
        )


def _nf4(double: bool) -> Callable[[], QuantizerImplementation]:
    def load() -> QuantizerImplementation:
        from dit360_quant_bnb.layers import Nf4

        return Nf4(double=double)

    return load


def _int8() -> QuantizerImplementation:
    from dit360_quant_bnb.layers import LlmInt8

    return LlmInt8()


@hookimpl
def dit360_quantizers() -> Iterable[Quantizer]:
    yield Quantizer(
        name="int4",
        api=1,
        priority=5,
        bits=4.5,
        error=0.08,
        summary="bitsandbytes' NF4: 4-bit weights, a scale for every 64",
        requires=_REQUIRES,
        unsupported=_unsupported,
        load=_nf4(double=False),
    )
    yield Quantizer(
        name="int4-double",
        api=1,
        bits=4.13,
        error=0.08,
        summary="NF4 whose scales are quantized too: 8 % smaller",
        requires=_REQUIRES,
        unsupported=_unsupported,
        load=_nf4(double=True),
    )
    yield Quantizer(
        name="int8-bnb",
        api=1,
        # Below the core's own, which is as small and, on a CPU, much faster.
        priority=5,
        bits=8.1,
        error=0.03,
        summary="bitsandbytes' LLM.int8: 8-bit weights, outlier channels computed in full",
        requires=_REQUIRES,
        unsupported=_unsupported,
        load=_int8,
    )
