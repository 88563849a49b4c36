"""From a name to the implementation that is used, with every verdict on the way kept. It imports no torch.

The same :class:`Choice` feeds the log, ``dit360 backends``, the picture's metadata and the exception's text.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from dit360_core.errors import BackendUnavailable, Reason, Sentence, UnknownName, one_line
from dit360_core.plugins.entries import CORE, Entry, by_priority, with_owner
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.offers import Model, Need, Offer
from dit360_core.plugins.registry import Registry, normal, noun
from dit360_core.system.machine import Machine
from dit360_core.system.memory import is_out_of_memory
from dit360_core.system.naming import looks_like_hub_id

EQUIVALENT = frozenset({"attention"})
"""Kinds whose offers all compute the same thing within rounding, so that one may stand in for another."""


Probe = Callable[[Any, Machine, Any], Iterable[Reason]]
"""Runs an implementation once on small data: ``probe(implementation, machine, need)`` → why not to use it."""


@attrs.frozen(kw_only=True)
class Choice:
    """What was asked, what is used, and what was thought of each candidate on the way.

    verdicts: ``distribution:name`` → reasons, in the order tried; the one used has none.
    named: how many of them were meant by the request; they were tried first. None are, for ``auto``.
    """

    kind: str
    requested: str
    used: str
    distribution: str
    version: str
    verdicts: tuple[tuple[str, tuple[Reason, ...]], ...] = ()
    named: int = 0

    @property
    def fell_back(self) -> bool:
        """Whether something else than what was named is used."""
        return 0 < self.named < len(self.verdicts)

    @property
    def address(self) -> str:
        """``distribution:name`` of what is used."""
        return f"{self.distribution}:{self.used}"

    @property
    def origin(self) -> str:
        """What is used, and whose it is if it is not the core's."""
        return with_owner(self.used, self.distribution, self.version)

    def sentence(self) -> Sentence:
        """One line for the log."""
        return Sentence(self._sentence())

    def _sentence(self) -> str:
        told = f"{self.kind}: {self.origin}"
        if self.fell_back:
            # Those that were asked for were tried first; what was passed over after them is in the metadata.
            why = self.verdicts[: self.named]
            because = " and ".join(map(_told, why[0][1])) if len(why) == 1 else in_words(why)
            return f"{told} instead of {self.requested}, because {because}"
        refused = in_words((name, why) for name, why in self.verdicts if why)
        return f"{told} (not {refused})" if refused else told

    def as_dict(self) -> dict[str, Any]:
        return {
            "requested": self.requested,
            "used": self.used,
            "distribution": self.distribution,
            "version": self.version,
            "refused": {name: [attrs.asdict(r) for r in why] for name, why in self.verdicts if why},
        }


def in_words(verdicts: Iterable[tuple[str, tuple[Reason, ...]]]) -> str:
    """``a and b: reason; c: another``: those that have the same reasons are told together."""
    together: dict[str, list[str]] = {}
    for name, why in verdicts:
        together.setdefault(" and ".join(map(_told, why)), []).append(name)
    return "; ".join(f"{_listed(names)}: {why}" for why, names in together.items())


def _told(reason: Reason) -> str:
    # A plugin may answer with anything.
    return reason.told if isinstance(reason, Reason) else str(reason)


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def judge(entry: Entry, machine: Machine, need: Need | None) -> tuple[Reason, ...]:
    """Why an offer cannot serve a need here, without loading it. ``need`` None: only what holds for every need."""
    if entry.refused:
        return entry.refused
    missing = tuple(reason for text in entry.offer.requires for reason in _unmet(text, machine, entry.offer.install))
    if need is None:
        return missing
    # Asked even if a library is missing: "pip install" is no help where what it brings cannot run.
    reasons = _asked(entry.offer, machine, need)
    return missing if missing and (not reasons or reasons[0].code == "offer_failed") else reasons


def _asked(offer: Offer, machine: Machine, need: Need) -> tuple[Reason, ...]:
    # What it lacks comes last: another circular_mode is no help where the device is the wrong one.
    return reasons_of(lambda: offer.unsupported(machine, need)) or reasons_of(lambda: offer.lacks(need))


MOST_REASONS = 20


def reasons_of(ask: Callable[[], Iterable[Reason]]) -> tuple[Reason, ...]:
    """A plugin's answer to why something cannot be; or that it gave none that is one."""
    try:
        answer = ask()
        # One that never stops answering must not hang.
        reasons = () if isinstance(answer, str) else tuple(itertools.islice(answer, MOST_REASONS))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's, whatever it is
        return (Reason("offer_failed", f"asking it raised {one_line(error)}"),)
    wrong = [answer] if isinstance(answer, str) else [r for r in reasons if not isinstance(r, Reason)]
    if wrong:
        return (Reason("offer_failed", f"it answered {wrong[0]!r:.60} where a Reason belongs"),)
    return reasons


def _unmet(requirement: str, machine: Machine, install: str = "") -> tuple[Reason, ...]:
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return (Reason("offer_failed", f"it names {requirement!r}, which is no requirement"),)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return ()
    there = machine.version(wanted.name)
    command = install or f'pip install "{requirement}"'
    if there is None:
        return (Reason("missing", f"{wanted.name} is not installed", command),)
    try:
        enough = wanted.specifier.contains(there, prereleases=True)
    except InvalidVersion:
        enough = False
    if not enough:
        return (Reason("version", f"{wanted.name} {there} is installed, {wanted.specifier} is needed", command),)
    return ()


def select(
    kind: str,
    requested: str,
    registry: Registry,
    machine: Machine,
    need: Need,
    *,
    probe: Probe | None = None,
    strict: bool = False,
    load: Callable[[Any], Any] = lambda offer: offer.load(),
) -> tuple[Choice, Any]:
    """The implementation to use for one request, and how it was found.

    Candidates are the named one, then (if the kind is an equivalence class and not ``strict``, or for ``auto``) the
    others by falling priority and name. Raises UnknownName, or BackendUnavailable with the reasons of all candidates.
    """
    named = _named(kind, requested, registry) if requested != "auto" else ()
    candidates = list(named)
    if requested == "auto" or (kind in EQUIVALENT and not strict):
        rest = [e for e in registry.entries(kind) if all(e.address != n.address for n in named)]
        candidates += sorted(rest, key=by_priority)

    verdicts: list[tuple[str, tuple[Reason, ...]]] = []
    for entry in candidates:
        reasons = judge(entry, machine, need)
        implementation = None
        if not reasons:
            implementation, reasons = try_out(entry, machine, need, load, probe)
        verdicts.append((entry.address, reasons))
        if not reasons:
            choice = Choice(
                kind=kind,
                requested=requested,
                used=entry.name,
                distribution=entry.distribution,
                version=entry.version,
                verdicts=tuple(verdicts),
                named=len(named),
            )
            return choice, implementation
    raise _unavailable(kind, requested, dict(verdicts))


def _named(kind: str, requested: str, registry: Registry) -> tuple[Entry, ...]:
    """The candidates that a name means. Raises UnknownName, or BackendUnavailable if it means two that clash."""
    found = registry.find(kind, requested)
    if len(found) == 1 and normal(requested) == found[0].address:
        return (_unclashed(found[0]),)
    wanted = normal(requested)
    by_name = any(wanted in (e.name, e.address) for e in found)
    if by_name and any(r.code == "clash" for e in found for r in e.refused) and not _core_among(found):
        raise _unavailable(kind, requested, {e.address: e.refused for e in found})
    owners = sorted({e.distribution for e in found})
    if not by_name and len(owners) > 1:
        names = " and ".join(f"'{owner}:{wanted}'" for owner in owners)
        clash = Reason("clash", f"{' and '.join(owners)} both call kernels {wanted!r}", f"ask for {names}")
        raise _unavailable(kind, requested, {e.address: (clash,) for e in found})
    return tuple(e for e in found if not e.refused) or found


def try_out(
    entry: Entry, machine: Machine, need: Need, load: Callable[[Any], Any], probe: Probe | None
) -> tuple[Any, tuple[Reason, ...]]:
    """Loads an offer that :func:`judge` had nothing against, and runs it once. Returns it and why not to use it."""
    try:
        with undisturbed():
            implementation = load(entry.offer)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's, whatever it is
        return None, (Reason("import_failed", f"loading it raised {one_line(error)}"),)
    if probe is None:
        return implementation, ()
    try:
        with undisturbed():
            return implementation, tuple(_hinted(reason, entry) for reason in probe(implementation, machine, need))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin's, whatever it is
        if is_out_of_memory(error):
            return None, (Reason("size", "memory ran out in a trial run"),)
        return None, (_hinted(Reason("probe_failed", f"a trial run raised {one_line(error)}"), entry),)


def _hinted(reason: Reason, entry: Entry) -> Reason:
    """A failed trial, with what to do about it."""
    if not isinstance(reason, Reason) or reason.code != "probe_failed" or reason.hint:
        return reason
    if entry.distribution == CORE:
        return attrs.evolve(reason, hint="choose another, or install another PyTorch; 'dit360 doctor' tries all")
    return attrs.evolve(reason, hint=f"update {entry.distribution} and tell its author")


def _unclashed(entry: Entry) -> Entry:
    return attrs.evolve(entry, refused=tuple(r for r in entry.refused if r.code != "clash"))


def _core_among(entries: Iterable[Entry]) -> bool:
    return any(e.distribution == CORE for e in entries)


def _unavailable(kind: str, requested: str, verdicts: dict[str, tuple[Reason, ...]]) -> BackendUnavailable:
    told = in_words(verdicts.items())
    if requested == "auto":
        return BackendUnavailable(f"No {noun(kind)} can be used here: {told or 'none is installed'}.", verdicts)
    return BackendUnavailable(f"The {noun(kind)} {requested!r} cannot be used here: {told}.", verdicts)


def resolve_model(name: str, registry: Registry, is_folder: Callable[[str], bool]) -> Model:
    """The model meant by a known name, a folder or a Hub id.

    Raises UnknownName if it can be none of them; BackendUnavailable if a name clashes, or a library that the model
    requires is not installed.
    """
    known = [e for e in registry.entries("model") if normal(name) in (e.name, e.address)]
    if len(known) == 1 and normal(name) == known[0].address:
        known = [_unclashed(known[0])]
    if known:
        allowed = [e for e in known if not e.refused]
        if len(allowed) != 1:
            raise _unavailable("model", name, {e.address: e.refused for e in known})
        if unmet := judge(allowed[0], Machine(), None):
            raise _unavailable("model", name, {allowed[0].address: unmet})
        return allowed[0].offer  # type: ignore[no-any-return]
    if is_folder(name) or looks_like_hub_id(name):
        return Model(name="given", api=1, base=name, width=2048, height=1024)
    names = sorted({e.name for e in registry.entries("model")})
    near = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names are {', '.join(names)}."
    raise UnknownName(f"There is no model {name!r}: it is no known name, no folder and no Hub id (owner/name); {hint}")
