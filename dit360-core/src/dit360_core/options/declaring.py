"""Declares an option: its default, help and limits, written down once and for every surface."""

from __future__ import annotations

import functools
from typing import Any

import attrs

from dit360_core.errors import Sentence
from dit360_core.options import aliases
from dit360_core.options.checking import check
from dit360_core.options.facts import options_of
from dit360_core.options.numerals import pythons


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    step: int = 1,
    offers: str | None = None,
    unset: str | None = None,
    converter: Any = None,
    named: str | None = None,
    longest: int | None = None,
    replaces_a_part: bool = False,
) -> Any:
    """An attrs field of an option, whose values are converted and checked when the class is made.

    converter: makes of what was given what is kept.
    named: that of ``offers``, if there is one and nothing is said. All others are as
    :class:`dit360_core.options.facts.Option` tells of them.
    """
    named = named or (offers if offers != "model" else None)
    if named is not None:
        converter = functools.partial(_our_name, named, choices or ())
    shown: dict[str, Any] = {
        "help": Sentence(help),
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "step": step,
        "offers": offers,
        "unset": unset,
        "named": named,
        "longest": longest,
        "replaces_a_part": replaces_a_part,
    }
    return attrs.field(default=default, validator=_validate, converter=converter or pythons, metadata=shown)


def _validate(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    check(options_of(type(instance))[field.name], value)


def _our_name(kind: str, choices: tuple[str, ...], value: Any) -> Any:
    return aliases.ours(kind, value, choices) if isinstance(value, str) else value


def flag(name: str) -> str:
    """The name of an option on the command line.

    name: as Python calls it.
    """
    return "--" + name.replace("_", "-")
