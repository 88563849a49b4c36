"""Exceptions of others: of code that the user gave us, of libraries, of plugins."""

from __future__ import annotations


def mark_as_callers(error: BaseException) -> None:
    """Marks an exception as raised by code that the user gave us, so that it is passed on as it is."""
    error.__dict__["dit360_callers"] = True


def is_callers(error: BaseException) -> bool:
    """Whether :func:`mark_as_callers` has marked it."""
    return "dit360_callers" in error.__dict__


def first_line(error: BaseException) -> str:
    """What another library's exception says first, or its class if it says nothing: its part of our sentence."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


LONGEST = 1000
"""Characters of what somebody's error says, in a sentence of ours."""


def one_line(error: BaseException) -> str:
    """The class of an exception and what it says, in one line."""
    try:
        said = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a plugin's exception, whose text may raise anything
        said = ""
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} …"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
