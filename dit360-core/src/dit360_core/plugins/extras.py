"""Which extra of the core brings a name that nothing installed here offers: for the sentence about it alone.

It is read from the metadata of the installed core, where its extras stand, so that the core names none of its plugins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

PREFIXES = {
    "attention": "dit360-attn-",
    "quantization": "dit360-quant-",
    "scheduler": "dit360-sched-",
    "tiling": "dit360-tile-",
    "architecture": "dit360-model-",
    "format": "dit360-format-",
    "model": "dit360-model-",
}
"""Kind of offer → how the names of this project's distributions of that kind begin."""


def extra_with(kind: str, name: str, *, core: str, here: Collection[str] = ()) -> str | None:
    """The extra that brings the offer ``name``; None where there is none. Never raises, and asks no network.

    An extra is called as the offer, or as a part of its name between hyphens: ``flash-2`` comes with ``flash``. All
    that it installs is of the kind, which leaves out ``all`` and what is no backend.

    kind: of the offer, a key of :data:`PREFIXES`.
    name: the offer's, small letters; never an address, which names a distribution already.
    core: the distribution whose extras these are.
    here: distributions that are there, in the normal form. An extra that installs nothing else brings nothing new.
    """
    whole = canonicalize_name(name)
    if ":" in whole or kind not in PREFIXES:
        return None
    brought = dict(_extras(core))
    for part in (whole, *whole.split("-")):
        installs = brought.get(part, frozenset())
        if installs - frozenset(here) and all(each.startswith(PREFIXES[kind]) for each in installs):
            return part
    return None


def extra_beginning(kind: str, text: str, *, core: str, here: Collection[str] = ()) -> str | None:
    """The extra by whose name a text begins, as a class of a family begins with the family's; the longest, or None.

    text: in any case.
    The others are those of :func:`extra_with`, which it is like in all else.
    """
    brought = dict(_extras(core))
    fitting = [
        extra
        for extra, installs in brought.items()
        if text.lower().startswith(extra)
        and installs - frozenset(here)
        and all(each.startswith(PREFIXES[kind]) for each in installs)
    ]
    return max(fitting, key=len, default=None)


def _extras(core: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The extras of a distribution and what each installs here, all names in the normal form."""
    try:
        about = metadata.metadata(core)
        extras, lines = about.get_all("Provides-Extra") or [], about.get_all("Requires-Dist") or []
    except (metadata.PackageNotFoundError, OSError, ValueError, TypeError):  # not installed, or what is left of it
        return
    needed = [requirement for line in lines if (requirement := _read(str(line))) is not None]
    for extra in extras:
        installs = {canonicalize_name(each.name) for each in needed if _only_with(each, str(extra))}
        yield canonicalize_name(str(extra)), frozenset(installs)


def _read(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _only_with(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement is an extra's on this machine, and nobody's without it."""
    marker = requirement.marker
    try:
        return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
    except ValueError:  # it compares what cannot be compared
        return False
