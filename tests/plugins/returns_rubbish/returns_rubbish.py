"""Hooks that return None, a number, and a list in which only one value is an offer."""

from dit360_core.plugins import Quantizer, Scheduler, Tiling, hookimpl


@hookimpl
def dit360_attention_backends():
    return None


@hookimpl
def dit360_quantizers():
    return 42


@hookimpl
def dit360_tilings():
    solver = Scheduler(name="misplaced", api=1, load=lambda settings: None)
    return ["bands", solver, Tiling(name="kept", api=1, exact=False, priority=-1, load=lambda: None), Quantizer]
