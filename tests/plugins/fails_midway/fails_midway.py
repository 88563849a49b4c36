"""Kernels that pass their trial and fail at the fifth call of a picture."""

from dit360_core.hookspecs import hookimpl
from dit360_core.offers import AttentionBackend

FIFTH = 5


def failing(at_the_fifth):
    def load():
        from torch.nn.functional import scaled_dot_product_attention

        calls = 0

        def attend(q, k, v, *, scale):
            nonlocal calls
            # A picture's calls have as many queries as keys, and more of them than a trial's short call.
            calls += q.shape[1] == k.shape[1] > 67
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
