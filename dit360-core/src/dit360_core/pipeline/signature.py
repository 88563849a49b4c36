"""Gives Python functions the signature of the option classes, so that a control is written down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from dit360_core.options import options_of

Made = TypeVar("Made", bound=Callable[..., Any])


def takes(*classes: type, leave_out: tuple[str, ...] = ()) -> Callable[[Made], Made]:
    """Gives a function that ends in ``**options`` the signature of the option classes, for help() and editors."""

    def decorate(function: Made) -> Made:
        own = inspect.signature(function)
        parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {p.name for p in parameters} | set(leave_out)
        for cls in classes:
            for field in attrs.fields(cls):
                if field.name not in taken:
                    taken.add(field.name)
                    parameters.append(
                        inspect.Parameter(
                            field.name,
                            inspect.Parameter.KEYWORD_ONLY,
                            default=field.default,
                            annotation=field.type,
                        )
                    )
        parameters.sort(key=lambda p: p.kind)
        function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        lines = [f"    {name}: {o.help}" for c in classes for name, o in options_of(c).items() if name in taken]
        function.__doc__ = (function.__doc__ or "") + "\n\n    Options:\n" + "\n".join(f"    {line}" for line in lines)
        return function

    return decorate
