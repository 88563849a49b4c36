"""A function of the core, replaced in every module that has imported it."""

import sys


def replace(monkeypatch, name, function):
    """name: of a function of the core. Fails if no module has it."""
    there = [m for key, m in list(sys.modules.items()) if key.startswith("dit360_core") and name in vars(m)]
    assert there
    for module in there:
        monkeypatch.setattr(module, name, function)
