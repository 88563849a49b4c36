"""A kernel that never returns, one that says more than a pipe holds, and one that works."""

from dit360_core.plugins import AttentionBackend, hookimpl


def hang():
    import time

    return lambda q, k, v, *, scale: time.sleep(3600)


def shout():
    import sys

    sys.stderr.write("not to be believed\n" * 100_000)
    print("neither is this")
    return good()


def good():
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q, k, v, *, scale):
        out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
        return out.transpose(1, 2)

    return attend


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="shouts", api=1, priority=-90, load=shout)
    yield AttentionBackend(name="hangs", api=1, priority=-91, load=hang)
    yield AttentionBackend(name="works", api=1, priority=-92, load=good)
