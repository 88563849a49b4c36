"""Two attention kernels that run everywhere: PyTorch's own, and the plain formula that all others are compared with."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.hookspecs import hookimpl
from dit360_core.machine import Machine
from dit360_core.offers import Attend, AttentionBackend, AttentionNeed, Reason


def _load_eager() -> Attend:
    from dit360_core.builtin.attention_kernels import eager

    return eager


def _load_sdpa() -> Attend:
    from dit360_core.builtin.attention_kernels import sdpa

    return sdpa


def _no_reason(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    return ()


@hookimpl
def dit360_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="sdpa",
        api=1,
        priority=10,
        summary="PyTorch's scaled_dot_product_attention",
        unsupported=_no_reason,
        load=_load_sdpa,
    )
    yield AttentionBackend(
        name="eager",
        api=1,
        priority=0,
        summary="the reference: stores all scores, softmax in float32",
        unsupported=_no_reason,
        load=_load_eager,
    )
