"""A hook that raises after it has yielded an offer, and another hook that is in order."""

from dit360_core.plugins import AttentionBackend, Model, hookimpl


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="half", api=1, priority=60, load=lambda: None)
    raise RuntimeError("no driver found\x1b[2J")


@hookimpl
def dit360_models():
    yield Model(name="from-raises-in-hook", api=1, base="someone/somewhere", width=512, height=256)
