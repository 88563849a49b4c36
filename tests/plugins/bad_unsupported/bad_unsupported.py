"""Offers that raise or answer with something else when they are asked about a need."""

from dit360_core.plugins import AttentionBackend, hookimpl


def raises(machine, need):
    raise KeyError("sm_90")


@hookimpl
def dit360_attention_backends():
    for name, answer in (
        ("raises-when-asked", raises),
        ("answers-text", lambda machine, need: "needs CUDA"),
        ("answers-none", lambda machine, need: None),
    ):
        yield AttentionBackend(name=name, api=1, priority=85, unsupported=answer, load=lambda: None)
