"""Makes the flags of ``dit360 generate`` from the option classes."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import attrs
import typer

from dit360_core.cli.wording import worded
from dit360_core.options import flag

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": list[str]}


def parameter(field: attrs.Attribute[Any], panel: str) -> inspect.Parameter:
    """One option as a parameter that typer understands: name, type, help with its range, default."""
    about = field.metadata
    several = field.default == ()
    optional = field.default is None or several
    kind: Any = _TYPES[str(field.type).replace("| None", "").strip()]
    shown: bool | str = f"{about['unset']}" if optional else True
    name = flag(field.name)
    declared = typer.Option(
        f"{name}/--no-{field.name.replace('_', '-')}" if kind is bool and field.default is not False else name,
        help=worded(about["help"]) + _reach(about["minimum"], about["maximum"]),
        metavar="|".join(about["choices"]) if about["choices"] else "FILE[:STRENGTH]" if several else None,
        show_default=shown,
        rich_help_panel=panel,
    )
    annotation = Annotated[kind | None, declared] if optional else Annotated[kind, declared]
    default = None if several else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _reach(minimum: float | None, maximum: float | None) -> str:
    if minimum is None or maximum is None:
        return ""
    low, high = (f"{x:g}" if x < 10**6 else "" for x in (minimum, maximum))
    return f" ({low} … {high})" if high else f" (from {low})"


def parameters(cls: type[Any], panel: str, *, leave_out: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    """The flags of one option class."""
    return [parameter(field, panel) for field in attrs.fields(cls) if field.name not in leave_out]
