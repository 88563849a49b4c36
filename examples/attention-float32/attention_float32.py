"""PyTorch's attention, computed in float32 whatever the model computes in."""

from dit360_core.plugins import AttentionBackend, hookimpl


def load():
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q, k, v, *, scale):  # all (B, S, H, D), and PyTorch wants (B, H, S, D)
        queries, keys, values = (t.transpose(1, 2).float() for t in (q, k, v))
        return scaled_dot_product_attention(queries, keys, values, scale=scale).transpose(1, 2).to(v.dtype)

    return attend


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="float32", api=1, priority=-50, summary="PyTorch's, always in float32", load=load)
