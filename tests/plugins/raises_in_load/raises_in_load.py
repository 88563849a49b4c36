"""Offers that fail only when they are loaded: by an exception, and by ending the program."""

import sys

from dit360_core.plugins import AttentionBackend, hookimpl


def load():
    raise OSError("libcudart.so.11: cannot open shared object file")


@hookimpl
def dit360_attention_backends():
    yield AttentionBackend(name="unloadable", api=1, priority=80, load=load)
    yield AttentionBackend(name="exits-in-load", api=1, priority=79, load=sys.exit)
