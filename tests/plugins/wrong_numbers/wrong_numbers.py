"""Kernels that load and run, and compute something else than attention."""

from dit360_core.plugins import AttentionBackend, hookimpl


def unscaled():
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q, k, v, *, scale):
        out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=1.0)
        return out.transpose(1, 2)

    return attend


def not_a_number():
    return lambda q, k, v, *, scale: q * float("nan")


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="unscaled", api=1, priority=100, load=unscaled)
    yield AttentionBackend(name="not-a-number", api=1, priority=99, load=not_a_number)
