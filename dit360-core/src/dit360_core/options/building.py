"""Makes option objects from names and values, and tells what in them somebody asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from dit360_core.errors import InputError, named
from dit360_core.options.decode import DecodeOptions
from dit360_core.options.edit import EditOptions, PhotoOptions
from dit360_core.options.facts import options_of
from dit360_core.options.larger import LargerOptions
from dit360_core.options.load import LoadOptions
from dit360_core.options.sample import SampleOptions

OptionClass = TypeVar(
    "OptionClass", LoadOptions, SampleOptions, DecodeOptions, EditOptions, PhotoOptions, LargerOptions
)


def build(cls: type[OptionClass], given: Mapping[str, Any], *, beside: type[Any] | None = None) -> OptionClass:
    """Makes an option object from names and values; an unknown name is an InputError with the nearest names.

    cls: the option class.

    given: option → value.
    beside: another option class whose names the caller takes too, and that may have been meant.

    Raises InputError also for values that the class refuses.
    """
    known = list(options_of(cls))
    for name in given:
        if name not in known:
            others = list(options_of(beside)) if beside else []
            near = difflib.get_close_matches(name, known + others, n=3)
            raise InputError(f"There is no option {name!r}; {nearest(near)}")
    return cls(**given)


def own_options(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of names and values that are options of a class.

    cls: one of the option classes.
    given: options of several classes.
    """
    return {name: given[name] for name in options_of(cls) if name in given}


def build_own(cls: type[OptionClass], given: Mapping[str, Any]) -> OptionClass:
    """Makes an option object of those of names and values that are options of its class.

    cls: the option class.
    given: options of several classes.

    Raises InputError for values that the class refuses.
    """
    return build(cls, own_options(cls, given))


def changed_options(options: Any, *leave_out: str) -> dict[str, Any]:
    """The options that differ from their defaults: what somebody really asked for.

    options: an object of an option class.
    leave_out: names of options that are not told.
    """
    return attrs.asdict(options, filter=lambda field, value: value != field.default and field.name not in leave_out)


def nearest(names: list[str]) -> str:
    """The tail of an 'unknown name' sentence.

    names: those that are near, which may be none.
    """
    return f"did you mean {' or '.join(map(named, names))}?" if names else "see the documentation for the names"
