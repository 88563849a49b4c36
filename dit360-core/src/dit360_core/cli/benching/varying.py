"""Configurations to be compared: a baseline, and for each ``NAME=VALUE`` one that differs from it in that option."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import InputError, plain
from dit360_core.models.families import facts_of, known_folder
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, decimal_hint, nearest, options_of
from dit360_core.planning.checks import begun_with, check_names
from dit360_core.planning.guidance import check_guidance
from dit360_core.planning.loras import SEPARATOR, names_in
from dit360_core.system.naming import existing

if TYPE_CHECKING:
    from dit360_core.plugins.registry import Registry

log = logging.getLogger("dit360")

BASELINE = "baseline"
FREE_TEXTS = ("prompt", "negative_prompt", "prompt_prefix", "quantization_skip")
"""Options whose values may hold commas: each is one value."""

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_CLASSES: tuple[type[Any], ...] = (LoadOptions, SampleOptions, DecodeOptions)
# What is decided at loading and again for a picture has the meaning that it has at loading: nothing is loaded twice.
_WHERE = {name: (cls, option) for cls in reversed(_CLASSES) for name, option in options_of(cls).items()}


@attrs.frozen(kw_only=True)
class Configuration:
    """All options of one side of a comparison, and those in which it differs from the baseline."""

    name: str = BASELINE
    changed: Mapping[str, Any] = attrs.field(factory=dict)
    loading: LoadOptions
    sampling: SampleOptions
    decoding: DecodeOptions

    def settings(self) -> dict[str, dict[str, Any]]:
        """Every option, for JSON."""
        return {
            "loading": attrs.asdict(self.loading),
            "sampling": attrs.asdict(self.sampling),
            "decoding": attrs.asdict(self.decoding),
        }

    def value(self, name: str) -> Any:
        """What an option is here."""
        return getattr(self._holder(name), name)

    def _holder(self, name: str) -> Any:
        cls = _WHERE[name][0]
        return next(part for part in (self.loading, self.sampling, self.decoding) if isinstance(part, cls))

    def varied(self, changes: Mapping[str, Any]) -> Configuration:
        """The same with other values. Raises InputError for values that cannot be, or that are here already."""
        for name, value in changes.items():
            if value == self.value(name):
                raise InputError(
                    f"{_assignment(name, value)} is what the {self.name} has already; vary {name} with another value."
                )

        def changed(part: Any) -> Any:
            mine = {name: value for name, value in changes.items() if self._holder(name) is part}
            return attrs.evolve(part, **mine)

        return Configuration(
            name="+".join(_assignment(name, value) for name, value in changes.items()),
            changed=dict(changes),
            loading=changed(self.loading),
            sampling=changed(self.sampling),
            decoding=changed(self.decoding),
        )


def configurations(baseline: Configuration, vary: Sequence[str], registry: Registry) -> list[Configuration]:
    """The baseline and those that ``vary`` asks for, each checked as far as that needs nothing to be loaded.

    vary: texts as of :func:`parse`. Of several values the baseline's own is measured as the baseline, which is told.

    Raises InputError: a name or value that is unknown or given twice, nothing but the baseline's own; whatever the
    option classes refuse.
    """
    found = [baseline]
    for asked in vary:
        several = list(parse(asked))
        for changes in several:
            if len(several) > 1 and all(value == baseline.value(name) for name, value in changes.items()):
                told = "+".join(_assignment(name, value) for name, value in changes.items())
                log.warning("%s is the %s, which is measured once.", told, baseline.name)
                continue
            new = baseline.varied(changes)
            if any(new.changed == old.changed for old in found):
                raise InputError(f"{new.name} is given twice; leave one out.")
            found.append(new)
    for one in found:
        _check(one, registry)
    return found


def parse(asked: str) -> Iterator[dict[str, Any]]:
    """``NAME=VALUE,VALUE`` is one change for each value, ``NAME=VALUE+NAME=VALUE`` one of several options together.

    In the second a comma belongs to the value. An empty value unsets an option that may be unset.
    """
    # A plus that no name follows belongs to a value, as in a file's name.
    parts = re.split(r"\+(?=[A-Za-z][A-Za-z_-]*=)", asked)
    named = [_named(part, asked) for part in parts]
    if len(named) == 1:
        name, text = named[0]
        for value in [text] if name in FREE_TEXTS else text.split(","):
            yield {name: _typed(name, value.strip())}
        return
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice in {asked!r}; leave one out.")
    yield {name: _typed(name, text.strip()) for name, text in named}


def _named(part: str, asked: str) -> tuple[str, str]:
    name, sign, text = part.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not sign or not name:
        raise InputError(f"{asked!r} is no variation; write NAME=VALUE, such as 'attention_backend=sdpa,eager'.")
    if name not in _WHERE:
        near = difflib.get_close_matches(name, list(_WHERE), n=3)
        hint = plain(nearest(near)) if near else "'dit360 generate --help' lists them."
        raise InputError(f"There is no option {name!r} to vary; {hint}")
    return name, text


def _typed(name: str, text: str) -> Any:
    """A value in the option's type. What it may be beyond that is the option class's to say."""
    option = _WHERE[name][1]
    kind = option.kind
    if not text and option.optional:
        return None
    if kind is tuple:
        return names_in(text)
    if kind is str:
        if not text and name not in FREE_TEXTS:
            raise InputError(f"{name} is given no value; write {name}=VALUE.")
        return text
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise InputError(f"{name} must be true or false, not {text!r}.")
        return text.lower() in _TRUE
    try:
        return int(text) if kind is int else float(text)
    except ValueError as error:
        right = "a whole number" if kind is int else "a number"
        hint = decimal_hint(text) if kind is float else ""
        raise InputError(f"{name} must be {right}, not {text!r}{hint}.") from error


def _assignment(name: str, value: Any) -> str:
    if value is None:
        return f"{name}="
    if isinstance(value, tuple):
        value = SEPARATOR.join(value)
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def _check(one: Configuration, registry: Registry) -> None:
    begun_with(one.sampling, None)
    model = check_names(
        one.loading, one.sampling, registry, lambda name: existing(name) is not None, decoding=one.decoding
    )
    if (folder := known_folder(model)) is not None:
        check_guidance(one.sampling, model, facts_of(folder, registry))
