"""Finds plugins and what they offer. The only user of pluggy's manager and of the entry points' metadata.

Every plugin is imported, registered and asked by itself, each stage guarded: one that fails is recorded and shown by
``dit360 backends``, and never stops the others. Nothing happens before the first look.
"""

from __future__ import annotations

import difflib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import attrs
import pluggy

from dit360_core.errors import UnknownName
from dit360_core.hookspecs import KINDS, Dit360Spec
from dit360_core.offers import PLUGIN_API, Offer, Reason

log = logging.getLogger("dit360")

GROUP = "dit360"
CORE = "dit360-core"
DISABLED = "DIT360_DISABLED_PLUGINS"
STRICT = "DIT360_STRICT_PLUGINS"

# A plugin that calls sys.exit() while it is imported must not end the program either.
_PLUGIN_ERRORS = (Exception, SystemExit)


@attrs.frozen(kw_only=True)
class PluginFailure:
    """A plugin, or one value it returned, that could not be used. stage: import, register or describe."""

    distribution: str
    version: str
    entry_point: str
    stage: str
    error: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.entry_point}) failed to {self.stage}: {self.error}"


@attrs.frozen(kw_only=True)
class Entry:
    """An offer and who made it. refused: why it may not even be considered (clash, api); empty if it may."""

    kind: str
    offer: Any
    distribution: str
    version: str
    refused: tuple[Reason, ...] = ()

    @property
    def name(self) -> str:
        return str(self.offer.name)

    @property
    def address(self) -> str:
        """``distribution:name``, which selects this offer and no other."""
        return f"{self.distribution}:{self.offer.name}"


class Registry:
    """All offers of all installed plugins.

    builtin: the core's own plugin modules, registered before and in the same way as everyone's.
    entry_points: whose plugins to look at; by default those installed in this environment.
    """

    def __init__(
        self,
        *,
        builtin: Iterable[Any] | None = None,
        entry_points: Iterable[metadata.EntryPoint] | None = None,
    ) -> None:
        self._builtin = builtin
        self._entry_points = entry_points
        self._entries: dict[str, tuple[Entry, ...]] | None = None
        self._failures: list[PluginFailure] = []
        self._disabled: list[str] = []
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------------------ what is there

    def entries(self, kind: str) -> tuple[Entry, ...]:
        """Every offer of a kind (attention, quantization, scheduler, tiling, model), refused ones included."""
        return self._discovered()[kind]

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        self._discovered()
        return tuple(self._failures)

    @property
    def disabled(self) -> tuple[str, ...]:
        """Plugins left out by DIT360_DISABLED_PLUGINS, as ``distribution:entry point``."""
        self._discovered()
        return tuple(self._disabled)

    def find(self, kind: str, name: str) -> tuple[Entry, ...]:
        """The entries meant by ``name`` or ``distribution:name``: one, or several that clash.

        Raises UnknownName with the nearest names.
        """
        entries = self.entries(kind)
        wanted = name.lower()
        found = tuple(e for e in entries if wanted in (e.name, e.address.lower()))
        if found:
            return found
        names = sorted({e.name for e in entries} | {e.address for e in entries if e.refused})
        near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}."
        lost = "".join(f" A plugin failed to load: {failure}." for failure in self.failures)
        raise UnknownName(f"There is no {kind} named {name!r}; {hint} 'dit360 backends' lists them.{lost}")

    # --------------------------------------------------------------------------------------------------- discovery

    def _discovered(self) -> dict[str, tuple[Entry, ...]]:
        if self._entries is None:
            with self._lock:
                if self._entries is None:
                    self._entries = self._discover()
        return self._entries

    def _discover(self) -> dict[str, tuple[Entry, ...]]:
        manager = pluggy.PluginManager("dit360")
        manager.add_hookspecs(Dit360Spec)
        collected: list[Entry] = []

        for module in self._builtin_modules():
            name = f"{CORE}:{module.__name__}"
            manager.register(module, name=name)
            collected += self._describe(manager, module, CORE, _version_of(CORE), name)

        for entry_point in self._wanted_entry_points():
            distribution, version = _origin(entry_point)
            named = f"{distribution}:{entry_point.name}"
            stage = "import"
            try:
                plugin = entry_point.load()
                stage = "register"
                manager.register(plugin, name=named)
            except _PLUGIN_ERRORS as error:
                self._failed(distribution, version, entry_point.name, stage, error)
                continue
            collected += self._describe(manager, plugin, distribution, version, entry_point.name)

        by_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        for entry in collected:
            by_kind[entry.kind].append(entry)
        return {kind: _settle_names(entries) for kind, entries in by_kind.items()}

    def _builtin_modules(self) -> Iterable[Any]:
        if self._builtin is not None:
            return self._builtin
        from dit360_core import builtin

        return builtin.PLUGINS

    def _wanted_entry_points(self) -> list[metadata.EntryPoint]:
        """Sorted by (distribution, name), without the duplicates that editable installs leave, without disabled ones."""
        found = self._entry_points if self._entry_points is not None else metadata.entry_points(group=GROUP)
        unique = {(*_origin(e), e.name, e.value): e for e in found}
        off = {part.strip().lower() for part in os.environ.get(DISABLED, "").split(",") if part.strip()}
        wanted = []
        for key in sorted(unique):
            distribution, _, name, _ = key
            if off & {distribution.lower(), name.lower(), f"{distribution}:{name}".lower()}:
                self._disabled.append(f"{distribution}:{name}")
            else:
                wanted.append(unique[key])
        return wanted

    def _describe(
        self, manager: pluggy.PluginManager, plugin: Any, distribution: str, version: str, entry_point: str
    ) -> list[Entry]:
        """Asks one plugin for its offers. One that raises would abort an ordinary hook call for everybody."""
        entries = []
        others = [p for p in manager.get_plugins() if p is not plugin]
        for kind, (hook, offer_class) in KINDS.items():
            if not any(caller.name == hook for caller in manager.get_hookcallers(plugin) or ()):
                continue
            try:
                answers = manager.subset_hook_caller(hook, others)()
                if not answers:
                    raise TypeError(f"{hook} returned None instead of {offer_class.__name__} objects")
                values = list(answers[0])
            except _PLUGIN_ERRORS as error:
                self._failed(distribution, version, entry_point, "describe", error)
                continue
            for value in values:
                if not isinstance(value, offer_class):
                    wrong = TypeError(f"{hook} returned {value!r:.80}, which is no {offer_class.__name__}")
                    self._failed(distribution, version, entry_point, "describe", wrong)
                    continue
                entries.append(
                    Entry(
                        kind=kind,
                        offer=value,
                        distribution=distribution,
                        version=version,
                        refused=_wrong_api(value),
                    )
                )
        return entries

    def _failed(
        self, distribution: str, version: str, entry_point: str, stage: str, error: BaseException
    ) -> None:
        if os.environ.get(STRICT) == "1":
            raise error
        text = f"{type(error).__name__}: {error}".strip()
        failure = PluginFailure(
            distribution=distribution, version=version, entry_point=entry_point, stage=stage, error=text
        )
        self._failures.append(failure)
        log.warning("A plugin is left out: %s. 'dit360 backends' tells more.", failure)


def _origin(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return "unknown", ""
    return entry_point.dist.name, entry_point.dist.version


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _wrong_api(offer: Offer) -> tuple[Reason, ...]:
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


def _settle_names(entries: list[Entry]) -> tuple[Entry, ...]:
    """The core's names are reserved; two others with one name are both refused, each naming the other."""
    holders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        holders[entry.name].append(entry)
    settled = []
    for entry in entries:
        rivals = [e for e in holders[entry.name] if e is not entry]
        core = any(e.distribution == CORE for e in rivals)
        if not rivals or (entry.distribution == CORE and not core):
            settled.append(entry)
            continue
        if core:
            clash = Reason("clash", f"the name {entry.name!r} belongs to dit360-core", "its author must rename it")
        else:
            others = " and ".join(f"{e.distribution} {e.version}" for e in rivals)
            clash = Reason(
                "clash",
                f"{others} offers the same name {entry.name!r}",
                f"ask for {entry.address!r} or uninstall one of them",
            )
        settled.append(attrs.evolve(entry, refused=(*entry.refused, clash)))
    return tuple(settled)


_default = Registry()


def default_registry() -> Registry:
    """The registry of this environment. Looks for plugins at its first use, once per process."""
    return _default
