"""Kernels that end the process they run in, and one in their midst that works."""

from dit360_core.plugins import AttentionBackend, hookimpl


def segfault():
    import ctypes

    return lambda q, k, v, *, scale: ctypes.string_at(0)


def leave():
    import os

    print("what a kernel prints must not be taken for a verdict")
    return lambda q, k, v, *, scale: os._exit(3)


def good():
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q, k, v, *, scale):
        out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
        return out.transpose(1, 2)

    return attend


@hookimpl
def dit360_attention_backends():
    # Below everything else: auto must not come to them in a process that has to live.
    yield AttentionBackend(name="segfaults", api=1, priority=-90, load=segfault)
    yield AttentionBackend(name="survives", api=1, priority=-91, load=good)
    yield AttentionBackend(name="leaves", api=1, priority=-92, load=leave)
    yield AttentionBackend(name="survives-too", api=1, priority=-93, load=good)
