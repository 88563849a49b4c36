"""Makes the flags of commands from the option classes."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import attrs
import typer

from dit360_core.cli.wording import worded
from dit360_core.options import Option, flag, options_of
from dit360_core.options.subjects import subject_of


def parameters(
    cls: type[Any],
    *,
    grouped: bool = True,
    leave_out: Collection[str] = (),
    called: Mapping[str, str] | None = None,
    required: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    unset: Mapping[str, str] | None = None,
) -> list[inspect.Parameter]:
    """The flags of one option class, those first that must be given.

    grouped: under the headings of their subjects in the help, where most of them wait until all are asked for.
    leave_out: options without a flag here.
    called: option → its flag, where that is not :func:`dit360_core.options.flag`.
    required: options that must be given here, whatever their default.
    defaults: option → its default here, where that is another.
    unset: option → what leaving it out means here, where that is not the same for every picture.
    """
    found = [
        _parameter(
            _with_default(option, defaults or {}, unset or {}),
            (called or {}).get(option.name, flag(option.name)),
            subject_of(option.name) if grouped else None,
            option.name in required,
        )
        for option in options_of(cls).values()
        if option.name not in leave_out
    ]
    return sorted(found, key=lambda one: one.default is not inspect.Parameter.empty)


def _with_default(option: Option, defaults: Mapping[str, Any], unset: Mapping[str, str]) -> Option:
    if option.name in unset:
        return attrs.evolve(option, default=None, optional=True, unset=unset[option.name])
    return attrs.evolve(option, default=defaults[option.name]) if option.name in defaults else option


def saving_parameters() -> list[inspect.Parameter]:
    """The flags that say how a picture's file is written, beside its format."""
    bits = typer.Option(
        "--bits", help="A channel, of PNG: 8 or 16.", metavar="8|16", show_default="8; 16 in TIFF and OpenEXR"
    )
    expand = typer.Option(
        "--expand-highlights",
        help="In OpenEXR, make what is bright brighter than white, for image-based lighting: an invention.",
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter("bits", keyword, default=None, annotation=Annotated[int | None, bits]),
        inspect.Parameter("expand_highlights", keyword, default=False, annotation=Annotated[bool, expand]),
    ]


def _parameter(option: Option, name: str, panel: str | None, required: bool) -> inspect.Parameter:
    """One option as a parameter that typer understands: name, type, help with its range, default."""
    several = option.kind is tuple
    empty = option.optional or several
    kind: Any = list[str] if several else option.kind
    declared = typer.Option(
        f"{name}/--no-{name.removeprefix('--')}" if kind is bool and option.default is not False else name,
        help=worded(option.help) + _reach(option.minimum, option.maximum),
        metavar="|".join(option.choices) if option.choices else "FILE[:STRENGTH]" if several else None,
        show_default=False if required else f"{option.unset}" if empty else True,
        rich_help_panel=panel,
    )
    default = None if several else option.default
    if required or default is attrs.NOTHING:
        default = inspect.Parameter.empty
    annotation = Annotated[kind | None, declared] if empty else Annotated[kind, declared]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _reach(minimum: float | None, maximum: float | None) -> str:
    if minimum is None or maximum is None:
        return ""
    low, high = (f"{x:g}" if x < 10**6 else "" for x in (minimum, maximum))
    return f" ({low} … {high})" if high else f" (from {low})"
