"""What drop-downs offer: the names in the registry, whatever plugins are installed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import attrs
from dit360_core.errors import Reason
from dit360_core.plugins.registry import default_registry


@attrs.frozen(kw_only=True)
class Choices:
    """What a drop-down offers.

    names: of a drop-down.
    unavailable: a sentence about those that cannot be used here, and why; may be empty.
    """

    names: tuple[str, ...]
    unavailable: str = ""


@functools.cache
def _judged(kind: str) -> Choices:
    # The verdicts hold until ComfyUI starts again, as the plugins do.
    from dit360_core.planning.catalogue import need_of
    from dit360_core.plugins.choosing import judge
    from dit360_core.plugins.entries import by_priority
    from dit360_core.system.machine import Machine

    machine = Machine.detect()
    need = need_of(kind, machine)
    usable: list[str] = []
    refused: dict[str, Reason] = {}
    families: list[str] = []
    for entry in sorted(default_registry().entries(kind), key=by_priority):
        clashing = any(reason.code == "clash" for reason in entry.refused)
        name = entry.address if clashing else entry.name
        # Of two with one name only one can have it; the other answers to its full address.
        name = entry.address if name in (*usable, *refused) else name
        reasons = [reason for reason in judge(entry, machine, need) if reason.code != "clash"]
        if reasons:
            refused[name] = reasons[0]
        else:
            usable.append(name)
        if entry.family and entry.family not in families:
            families.append(entry.family)
    told = "; ".join(f"{name}: {reason.sentence}" for name, reason in refused.items())
    others = [family for family in families if family not in (*usable, *refused)]
    return Choices(
        names=(*usable, *others, *refused),
        unavailable=f"Not usable here: {told}." if told else "",
    )


def choices(kind: str, *, first: Sequence[str] = ()) -> Choices:
    """The names of a kind (attention, quantization, scheduler, tiling, model), usable ones before the others.

    first: what stands before them, such as ``auto``.
    """
    found = _judged(kind)
    beside = ("auto",) if kind != "model" and "auto" not in first else ()
    leading = (*first, *beside)
    return attrs.evolve(found, names=(*leading, *(name for name in found.names if name not in leading)))
