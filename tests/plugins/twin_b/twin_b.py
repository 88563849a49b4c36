"""One of two distributions that offer the same name. Its kernel is correct."""

from dit360_core.plugins import AttentionBackend, hookimpl


def load():
    import torch

    def attend(q, k, v, *, scale):
        weights = torch.einsum("bqhd,bkhd->bhqk", q * scale, k).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", weights, v)

    return attend


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="same", api=1, priority=70, load=load)
