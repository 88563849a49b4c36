"""Who may have a name: the core's are reserved, and two plugins with one name are both refused."""

from __future__ import annotations

from collections import Counter, defaultdict

import attrs

from dit360_core.errors import Reason
from dit360_core.options import aliases
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import PLUGIN_API, Offer


def wrong_api(offer: Offer) -> tuple[Reason, ...]:
    """Why an offer for another contract cannot be used; nothing for one of this."""
    if offer.api == PLUGIN_API:
        return ()
    newer = isinstance(offer.api, int) and offer.api > PLUGIN_API
    return (
        Reason(
            "api",
            f"it was written for plugin api {offer.api!r} and this dit360-core speaks {PLUGIN_API}",
            "upgrade dit360-core" if newer else "upgrade the plugin",
        ),
    )


def settle_names(entries: list[Entry], core: str) -> tuple[Entry, ...]:
    """The entries of a kind, refused where they clash, each naming the others.

    core: whose names are reserved.

    Looks at each once: a plugin may have thousands.
    """
    holders: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    families: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        holders[entry.name][entry.distribution, entry.version] += 1
        if entry.family:
            families[entry.family].add(f"{entry.distribution} {entry.version}")
    settled = []
    for entry in entries:
        clash = _clash(entry, holders[entry.name], sorted(families.get(entry.name, ())), core)
        settled.append(attrs.evolve(entry, refused=(*entry.refused, clash)) if clash else entry)
    return tuple(settled)


def _clash(entry: Entry, holders: Counter[tuple[str, str]], kin: list[str], core: str) -> Reason | None:
    """kin: distributions that call several kernels by this name."""
    if (meant := aliases.taken(entry.kind, entry.name)) is not None:
        return Reason(
            "clash",
            f"the name {entry.name!r} means {meant} here, as elsewhere",
            f"ask for {entry.address!r}; its author should rename it",
        )
    twice = holders[entry.distribution, entry.version] > 1
    others = sorted(f"{who} {version}" for who, version in holders if who != entry.distribution)
    if kin and not others and not twice and entry.distribution != core:
        return Reason(
            "clash",
            f"the name {entry.name!r} is what {' and '.join(kin)} calls several kernels",
            f"ask for {entry.address!r} or uninstall one of them",
        )
    if entry.distribution == core and not twice:
        return None
    if any(who == core for who, _ in holders):
        return Reason(
            "clash",
            f"the name {entry.name!r} belongs to dit360-core",
            f"ask for {entry.address!r}; its author should rename it",
        )
    if others:
        return Reason(
            "clash",
            f"the name {entry.name!r} is also offered by {' and '.join(others)}",
            f"ask for {entry.address!r} or uninstall one of them",
        )
    if twice:
        return Reason(
            "clash", f"{entry.distribution} offers the name {entry.name!r} twice", "its author must rename one"
        )
    return None
