"""Kernels that pass their trial and fail at the fifth call of a picture."""

import sys

from dit360_core.plugins import AttentionBackend, hookimpl

FIFTH = 5


def on_trial():
    frame = sys._getframe()
    while frame and frame.f_globals.get("__name__") != "dit360_core.planning.probe":
        frame = frame.f_back
    return frame is not None


def failing(at_the_fifth):
    def load():
        from torch.nn.functional import scaled_dot_product_attention

        calls = 0

        def attend(q, k, v, *, scale):
            nonlocal calls
            calls += not on_trial()
            out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
            return at_the_fifth(out.transpose(1, 2)) if calls == FIFTH else out.transpose(1, 2)

        return attend

    return load


def raising(out):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="raises-midway", api=1, priority=-90, load=failing(raising))
    yield AttentionBackend(name="nan-midway", api=1, priority=-91, load=failing(lambda out: out * float("nan")))
    yield AttentionBackend(name="shape-midway", api=1, priority=-92, load=failing(lambda out: out[:, 1:]))
