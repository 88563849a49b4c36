"""xFormers' memory-efficient attention as a backend of dit360. Importing this does not import xFormers."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.plugins import Attend, AttentionBackend, AttentionNeed, Machine, Reason, hookimpl


def _unsupported(machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    # The rest is xFormers' own to say, once it is imported, which takes seconds.
    if need.device != "cuda":
        yield Reason("device", f"all operators of xFormers need a CUDA device, and this runs on {need.device}")


def _load() -> Attend:
    from dit360_attn_xformers.kernel import MemoryEfficient

    return MemoryEfficient()


@hookimpl
def dit360_attention_backends() -> Iterable[AttentionBackend]:
    yield AttentionBackend(
        name="xformers",
        api=1,
        # Below PyTorch's own, which dispatches to the same kernels without another library.
        priority=8,
        summary="xFormers' memory-efficient attention",
        requires=("xformers>=0.0.30",),
        takes_key_bias=True,
        unsupported=_unsupported,
        load=_load,
    )
