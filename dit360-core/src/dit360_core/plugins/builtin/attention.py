"""Attention without any plugin: PyTorch's own, by choice or by name, and the formula that all are compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from dit360_core.plugins import Attend, AttentionBackend, AttentionNeed, Machine, Reason, hookimpl, setting

_HALF = ("bf16", "fp16")


# One object for a name, so that two registries hold equal offers.
@functools.cache
def _kernel(name: str) -> Callable[[], Attend]:
    def load() -> Attend:
        from dit360_core.plugins.builtin import attention_kernels

        kernel: Attend = getattr(attention_kernels, name)
        return kernel

    return load


def _slow_on_this_cpu(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    """A product of bfloat16 matrices takes forty times as long on a CPU without instructions for it."""
    if need.device == "cpu" and need.dtype in _HALF and not (need.dtype == "bf16" and machine.fast_bfloat16):
        yield Reason(
            "dtype",
            f"unfused it is dozens of times slower in {need.dtype} on this CPU",
            f"use {setting('precision', 'fp32')}",
        )


def _flash(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    if need.device == "cpu":
        return
    yield from _ampere_in_half(machine, need, channels=256)
    if need.key_bias:
        yield Reason("mask", "on CUDA it takes no bias on the keys", f"use {setting('circular_mode', 'pad')}")


def _efficient(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    yield from _cuda_only(need)
    if need.dtype == "fp64":
        yield Reason("dtype", "it does not compute in fp64")


def _cudnn(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    yield from _ampere_in_half(machine, need, channels=128)


def _ampere_in_half(machine: Machine, need: AttentionNeed, channels: int) -> Iterable[Reason]:
    yield from _cuda_only(need)
    if need.dtype not in _HALF:
        yield Reason(
            "dtype", f"it computes in bf16 and fp16, not in {need.dtype}", f"use {setting('precision', 'bf16')}"
        )
    if need.head_dim > channels:
        yield Reason("head_dim", f"it takes at most {channels} channels a head, and these have {need.head_dim}")
    if machine.capability is not None and machine.capability < (8, 0):
        has = ".".join(map(str, machine.capability))
        yield Reason("capability", f"it needs compute capability 8.0, and this GPU has {has}")


def _cuda_only(need: AttentionNeed) -> Iterable[Reason]:
    if need.device != "cuda":
        yield Reason("device", f"it needs a CUDA device, and this runs on {need.device}")


@hookimpl
def dit360_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="sdpa",
        api=1,
        priority=10,
        takes_key_bias=True,
        summary="PyTorch's, with its own choice of kernel",
        load=_kernel("sdpa"),
    )
    yield AttentionBackend(
        name="sdpa-flash",
        api=1,
        priority=5,
        takes_key_bias=True,
        summary="PyTorch's flash kernel, and no other",
        unsupported=_flash,
        load=_kernel("sdpa_flash"),
    )
    yield AttentionBackend(
        name="sdpa-efficient",
        api=1,
        priority=4,
        takes_key_bias=True,
        summary="PyTorch's memory-efficient kernel, and no other",
        unsupported=_efficient,
        load=_kernel("sdpa_efficient"),
    )
    yield AttentionBackend(
        name="sdpa-cudnn",
        api=1,
        priority=3,
        takes_key_bias=True,
        summary="cuDNN's kernel through PyTorch, and no other",
        unsupported=_cudnn,
        load=_kernel("sdpa_cudnn"),
    )
    yield AttentionBackend(
        name="sdpa-math",
        api=1,
        priority=-5,
        stores_scores=True,
        takes_key_bias=True,
        summary="PyTorch's unfused formula: stores all scores",
        unsupported=_slow_on_this_cpu,
        load=_kernel("sdpa_math"),
    )
    yield AttentionBackend(
        name="eager",
        api=1,
        priority=0,
        stores_scores=True,
        takes_key_bias=True,
        summary="the reference: stores all scores, all in float32",
        load=_kernel("eager"),
    )
