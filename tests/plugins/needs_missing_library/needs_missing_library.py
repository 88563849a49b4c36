"""Needs a library that is not installed, and says so in its metadata alone."""

from dit360_core.plugins import AttentionBackend, hookimpl


def load():
    raise AssertionError("loaded although a requirement is not met")


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="needy", api=1, priority=95, requires=("surely-not-installed[extra]>=2",), load=load)
