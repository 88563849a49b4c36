"""FlashAttention as backends of dit360, one for each way it can be there. Importing this imports none of them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable

from dit360_core.plugins import Attend, AttentionBackend, AttentionNeed, Machine, Reason, hookimpl, setting

Capability = tuple[int, int]


def _unfit(
    machine: Machine, need: AttentionNeed, since: Capability = (8, 0), before: Capability | None = None
) -> Iterable[Reason]:
    """What holds for all FlashAttention.

    since, before: the compute capabilities that a version was written for.
    """
    if need.device != "cuda":
        yield Reason("device", f"FlashAttention needs a CUDA device, and this runs on {need.device}")
        return
    if need.dtype not in ("bf16", "fp16"):
        yield Reason(
            "dtype", f"it computes in bf16 and fp16, not in {need.dtype}", f"use {setting('precision', 'bf16')}"
        )
    if need.head_dim > 256 or need.head_dim % 8:
        yield Reason(
            "head_dim", f"it takes heads of at most 256 channels in multiples of 8, and these have {need.head_dim}"
        )
    there = machine.capability
    if there is not None and (there < since or (before is not None and there >= before)):
        reach = (
            f"{_dotted(since)} or higher" if before is None else f"{_dotted(since)}, and lower than {_dotted(before)}"
        )
        yield Reason("capability", f"it needs compute capability {reach}, and this GPU has {_dotted(there)}")


def _dotted(version: Capability) -> str:
    return ".".join(map(str, version))


def _flash_3(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    unfit = list(_unfit(machine, need, since=(9, 0), before=(10, 0)))
    yield from unfit
    if not unfit and not any(importlib.util.find_spec(name) for name in ("fa3_fwd_interface", "flash_attn_interface")):
        yield Reason("missing", "neither fa3-fwd nor flash_attn_interface is installed", _extra("fa3"))


def _flash_hub(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    unfit = list(_unfit(machine, need))
    yield from unfit
    if not unfit and machine.version("kernels") is not None:
        from dit360_attn_flash.hub import downloaded, fitting

        if not downloaded(machine.capability):
            wanted = " or ".join(kernel.repository for kernel in fitting(machine.capability))
            yield Reason("missing", f"{wanted} is not downloaded", "python -m dit360_attn_flash.hub")


def _flash_torch(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    unfit = list(_unfit(machine, need))
    yield from unfit
    if not unfit and active_in_torch() is None:
        yield Reason(
            "mode",
            "no implementation is active in this process, and switching one on would do so for all of it",
            "torch.nn.attention.activate_flash_attention_impl, in your own program",
        )


def active_in_torch() -> str | None:
    """The implementation that PyTorch's flash attention was switched to in this process, without importing torch."""
    attention = sys.modules.get("torch.nn.attention")
    current = getattr(attention, "current_flash_attention_impl", None)
    return current() if current is not None else None


def _extra(name: str, options: str = "") -> str:
    return f'pip install "dit360-attn-flash[{name}]"{options}'


# One object for a name, so that two registries hold equal offers.
@functools.cache
def _kernel(name: str) -> Callable[[], Attend]:
    def load() -> Attend:
        from dit360_attn_flash import kernels

        loader: Callable[[], Attend] = getattr(kernels, name)
        return loader()

    return load


@hookimpl
def dit360_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="flash-3",
        api=1,
        family="flash",
        priority=24,
        summary="FlashAttention-3",
        unsupported=_flash_3,
        load=_kernel("flash_3"),
    )
    yield AttentionBackend(
        name="flash-4",
        api=1,
        family="flash",
        priority=23,
        summary="FlashAttention-4, compiled at its first call",
        requires=("flash-attn-4>=4.0.0b30",),
        install=_extra("fa4"),
        unsupported=_unfit,
        load=_kernel("flash_4"),
    )
    yield AttentionBackend(
        name="flash-2",
        api=1,
        family="flash",
        priority=22,
        summary="FlashAttention-2",
        requires=("flash-attn>=2.6",),
        install=_extra("fa2", " --no-build-isolation"),
        unsupported=_unfit,
        load=_kernel("flash_2"),
    )
    yield AttentionBackend(
        name="flash-hub",
        api=1,
        family="flash",
        priority=21,
        summary="FlashAttention from the Hugging Face Hub",
        requires=("kernels>=0.17",),
        install=_extra("hub"),
        unsupported=_flash_hub,
        load=_kernel("flash_hub"),
    )
    yield AttentionBackend(
        name="flash-torch",
        api=1,
        family="flash",
        priority=20,
        summary="what PyTorch's flash attention was switched to in this process",
        unsupported=_flash_torch,
        load=_kernel("flash_torch"),
    )
