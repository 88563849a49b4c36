"""What is known of an option, kept once: every surface reads it here, and none reads an annotation."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import attrs

KINDS: tuple[type, ...] = (str, int, float, bool, tuple)


@attrs.frozen(kw_only=True)
class Option:
    """One option of a class.

    name: as Python calls it.
    kind: str, int, float, bool, or tuple for several texts.
    optional: None is allowed.
    default: ``attrs.NOTHING`` if a value must be given.
    help: one sentence or two.
    choices: all values that a text may have; None if it may have others.
    minimum, maximum: bounds of a number, which it may have itself; None for no bound.
    step: a positive number must be a multiple of it.
    offers: the kind of offer whose names the value is chosen from, if it is one.
    unset: what leaving it out means, for the help, where no default says it.
    named: the kind under which :mod:`dit360_core.options.aliases` knows what others call the choices.
    longest: characters that a text may have; None for no limit.
    replaces_a_part: whether the file or folder that is named takes the place of a part of the model.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    help: str
    choices: tuple[str, ...] | None
    minimum: float | None
    maximum: float | None
    step: int
    offers: str | None
    unset: str | None
    named: str | None
    longest: int | None
    replaces_a_part: bool


_made: dict[type[Any], Mapping[str, Option]] = {}


def options_of(cls: type[Any]) -> Mapping[str, Option]:
    """Name → what is known of it, in the order of the class, which :func:`dit360_core.options.option` declared.

    cls: LoadOptions, SampleOptions or DecodeOptions. Raises TypeError for a field of a type that no option can have.
    """
    if cls not in _made:
        _made[cls] = types.MappingProxyType(_read(cls))
    return _made[cls]


def _read(cls: type[Any]) -> dict[str, Option]:
    annotated = typing.get_type_hints(cls)
    found = {}
    for field in attrs.fields(cls):
        kind, optional = _kind(annotated[field.name])
        if kind not in KINDS:
            raise TypeError(f"{cls.__name__}.{field.name} is declared as {annotated[field.name]}, which is no option.")
        found[field.name] = Option(
            name=field.name, kind=kind, optional=optional, default=field.default, **field.metadata
        )
    return found


def _kind(annotation: Any) -> tuple[type, bool]:
    """(kind, whether None is allowed) of an annotation."""
    several = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    kinds = [one for one in several if one is not types.NoneType]
    return typing.get_origin(kinds[0]) or kinds[0], len(kinds) < len(several)
