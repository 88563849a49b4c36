"""Finds plugins and what they offer. The only user of pluggy's manager and of the entry points' metadata.

Every plugin is imported, registered and asked by itself, each stage guarded: one that fails is recorded and shown by
``dit360 backends``, and never stops the others. Nothing happens before the first look.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import reprlib
import threading
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

import attrs
import pluggy
from packaging.utils import canonicalize_name

from dit360_core.errors import UnknownName, one_line, remedy
from dit360_core.options import aliases
from dit360_core.plugins import builtin
from dit360_core.plugins.defaults import check_defaults
from dit360_core.plugins.entries import CORE, Entry, by_priority
from dit360_core.plugins.extras import extra_with
from dit360_core.plugins.guarding import Arrivals, check_readable, offered, undisturbed
from dit360_core.plugins.hookspecs import KINDS, Dit360Spec
from dit360_core.plugins.names import settle_names, wrong_api
from dit360_core.plugins.offers import Model
from dit360_core.system.installed import installed_version

log = logging.getLogger("dit360")

GROUP = "dit360"
DISABLED = "DIT360_DISABLED_PLUGINS"
STRICT = "DIT360_STRICT_PLUGINS"

_STAGES = {
    "import": "cannot be imported",
    "register": "cannot be registered",
    "describe": "cannot describe its offers",
}

# Survives values whose own repr raises, and shortens long ones.
_shown = reprlib.Repr()
_shown.maxother = _shown.maxstring = 80


@attrs.frozen(kw_only=True)
class PluginFailure:
    """A plugin, or one value it returned, that could not be used.

    stage: import, register or describe.
    """

    distribution: str
    version: str
    entry_point: str
    stage: str
    error: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.entry_point}) {_STAGES[self.stage]}: {self.error}"


@attrs.frozen
class _Raised:
    """What importing a plugin raised, in the plugin's place."""

    error: BaseException


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
        self._looking = False
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------------------ what is there

    def entries(self, kind: str) -> tuple[Entry, ...]:
        """Every offer of a kind (attention, quantization, scheduler, tiling, …), refused ones included."""
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

    def wanted(self) -> list[str]:
        """``distribution:entry point`` of what would be imported, without importing it."""
        return [f"{origin_of(point)[0]}:{point.name}" for point in self._wanted_entry_points()]

    def find(self, kind: str, name: str) -> tuple[Entry, ...]:
        """The entries meant by ``name`` or ``distribution:name``: one, several that clash, or a family's by priority.

        Raises UnknownName with the nearest names.
        """
        entries = self.entries(kind)
        wanted = normal(name)
        found = tuple(e for e in entries if wanted in (e.name, e.address))
        found = found or tuple(sorted((e for e in entries if wanted in e.families), key=by_priority))
        if found:
            return found
        said = aliases.near(kind, wanted)
        extra = None if said else extra_with(kind, wanted, core=CORE, here=self.distributions())
        if extra is not None:
            raise UnknownName(
                f'The {noun(kind)} {name!r} is not installed; it comes with: pip install "dit360-core[{extra}]".'
            )
        names = sorted({e.name for e in entries} | {e.address for e in entries if e.refused} | _families(entries))
        near = [] if said else difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}."
        hint = f"{said}." if said else hint
        lost = f" These plugins failed: {', '.join(self._failed_plugins())}." if self.failures else ""
        raise UnknownName(f"There is no {noun(kind)} named {name!r}; {hint} {remedy('list_backends')}.{lost}")

    # --------------------------------------------------------------------------------------------------- discovery

    def _discovered(self) -> dict[str, tuple[Entry, ...]]:
        if self._entries is None:
            with self._lock:
                if self._looking:
                    raise RuntimeError("a plugin must not look at the registry while it is imported or asked")
                if self._entries is None:
                    self._looking = True
                    try:
                        self._entries = self._discover()
                    finally:
                        self._looking = False
        return self._entries

    def _discover(self) -> dict[str, tuple[Entry, ...]]:
        self._failures, self._disabled = [], []
        collected: list[Entry] = []
        for module in self._builtin_modules():
            collected += self._ask(module, CORE, installed_version(CORE) or "not installed", module.__name__)

        seen: list[Any] = []
        wanted = self._wanted_entry_points()
        arrivals = Arrivals()
        for lost in arrivals.ended() if self._entry_points is None else ():
            log.warning(
                "An earlier start ended without a word while the plugin %s was imported or asked; unless you ended it "
                "yourself, update or uninstall that, or set %s=%s ('dit360 doctor' tries it apart).",
                lost,
                DISABLED,
                lost,
            )
        names = [f"{origin_of(point)[0]}:{point.name}" for point in wanted] if self._entry_points is None else []
        with arrivals.noted(names) as note:
            # All are imported before any is asked.
            for entry_point, plugin in [(point, self._imported(point, note)) for point in wanted]:
                distribution, version = origin_of(entry_point)
                if isinstance(plugin, _Raised):
                    self._failed(distribution, version, entry_point.name, "import", plugin.error)
                    continue
                if any(plugin is other for other in seen):
                    twice = ValueError(f"another entry point names the same {entry_point.value!r}")
                    self._failed(distribution, version, entry_point.name, "register", twice)
                    continue
                seen.append(plugin)
                note(f"{distribution}:{entry_point.name}")
                collected += self._ask(plugin, distribution, version, entry_point.name)

        if self._failures:
            log.warning("Plugins that failed: %s; 'dit360 backends' tells why.", ", ".join(self._failed_plugins()))
        by_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
        for entry in collected:
            by_kind[entry.kind].append(entry)
        return {kind: settle_names(entries, CORE) for kind, entries in by_kind.items()}

    def _imported(self, point: metadata.EntryPoint, note: Callable[[str], None]) -> Any:
        """What an entry point names, or what that raised."""
        note(f"{origin_of(point)[0]}:{point.name}")
        try:
            with undisturbed():
                return point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, whatever it is
            return _Raised(error)

    def _builtin_modules(self) -> Iterable[Any]:
        return builtin.PLUGINS if self._builtin is None else self._builtin

    def _wanted_entry_points(self) -> list[metadata.EntryPoint]:
        """Sorted by (distribution, name), without duplicates (editable installs leave some) and disabled ones."""
        found = self._entry_points if self._entry_points is not None else metadata.entry_points(group=GROUP)
        unique = {(*origin_of(e), e.name, e.value): e for e in found}
        off = {canonicalize_name(part.strip()) for part in os.environ.get(DISABLED, "").split(",") if part.strip()}
        wanted = []
        for key in sorted(unique):
            distribution, _, name, _ = key
            if off & {canonicalize_name(n) for n in (distribution, name, f"{distribution}:{name}")}:
                self._disabled.append(f"{distribution}:{name}")
            else:
                wanted.append(unique[key])
        return wanted

    def _ask(self, plugin: Any, distribution: str, version: str, entry_point: str) -> list[Entry]:
        """The offers of one plugin. Its manager is its own, where one that raises spoils no call of another's hook."""
        failed = functools.partial(self._failed, distribution, version, entry_point)
        manager = pluggy.PluginManager("dit360")
        manager.add_hookspecs(Dit360Spec)
        try:
            manager.register(plugin, name=f"{distribution}:{entry_point}")
            implemented = {caller.name: caller for caller in manager.get_hookcallers(plugin) or ()}
            if not implemented:
                raise TypeError("it has no hook: mark a function such as dit360_attention_backends with @hookimpl")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, whatever it is
            failed("register", error)
            return []
        for name, caller in implemented.items():
            # Its other hooks are used all the same: it may be written for a newer core, which has this one too.
            if not caller.has_spec() and not all(i.optionalhook for i in caller.get_hookimpls()):
                near = difflib.get_close_matches(name, [hook for hook, _ in KINDS.values()], n=1)
                meant = f", did you mean {near[0]}?" if near else ""
                failed("register", AttributeError(f"dit360 has no hook {name}{meant}"))

        entries = []
        for kind, (hook, offer_class) in KINDS.items():
            if hook not in implemented:
                continue
            values: list[Any] = []
            try:
                with undisturbed():
                    answers = implemented[hook]()
                    if not answers:
                        raise TypeError(f"{hook} returned None instead of {offer_class.__name__} objects")
                    values = list(offered(answers[0], functools.partial(failed, "describe")))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failed("describe", error)
            for value in values:
                if isinstance(value, offer_class):
                    try:
                        check_readable(value)
                        if isinstance(value, Model):
                            check_defaults(value)
                    except KeyboardInterrupt:
                        raise
                    except BaseException as error:
                        failed("describe", error)
                        continue
                    refused = wrong_api(value)
                    entries.append(
                        Entry(kind=kind, offer=value, distribution=distribution, version=version, refused=refused)
                    )
                else:
                    what = f"{hook} returned {_shown.repr(value)}, which is no {offer_class.__name__}"
                    failed("describe", TypeError(what))
        return entries

    def _failed(self, distribution: str, version: str, entry_point: str, stage: str, error: BaseException) -> None:
        failure = PluginFailure(
            distribution=distribution, version=version, entry_point=entry_point, stage=stage, error=one_line(error)
        )
        if os.environ.get(STRICT) == "1":
            log.error("%s", failure)
            # A plugin's sys.exit(0) would look like success.
            raise error if isinstance(error, Exception) else RuntimeError(str(failure)) from error
        self._failures.append(failure)
        log.info("%s", failure)

    def distributions(self) -> set[str]:
        """Whose plugins are installed here, those that failed or are switched off included."""
        offering = {entry.distribution for entries in self._discovered().values() for entry in entries}
        failed = {failure.distribution for failure in self._failures}
        return offering | failed | {plugin.partition(":")[0] for plugin in self._disabled}

    def _failed_plugins(self) -> list[str]:
        return sorted({f"{failure.distribution} {failure.version}".strip() for failure in self._failures})


def normal(name: str) -> str:
    """``name`` or ``distribution:name`` as offers spell it, whatever case and punctuation it was asked with."""
    distribution, colon, own = name.lower().rpartition(":")
    return f"{canonicalize_name(distribution)}:{own}" if colon else own


def noun(kind: str) -> str:
    """What a kind of offer is called in a sentence."""
    return {
        "attention": "attention backend",
        "architecture": "family of models",
        "format": "form of weights",
    }.get(kind, kind)


def _families(entries: Iterable[Entry]) -> set[str]:
    return {entry.family for entry in entries if entry.family}


def origin_of(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    """Distribution, in the normal form of its name, and version. Damaged metadata must not stop the others."""
    try:
        name, version = entry_point.dist.name, entry_point.dist.version  # type: ignore[union-attr]
    except Exception:
        return "unknown", ""
    return canonicalize_name(name or "unknown"), version or ""


_default = Registry()


def default_registry() -> Registry:
    """The registry of this environment. Looks for plugins at its first use, once per process."""
    return _default
