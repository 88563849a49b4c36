"""What can go wrong, told in one sentence: what, why, what to do.

Every error of ours is a :class:`Dit360Error`; the command line prints its text and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dit360_core.offers import Reason


class Dit360Error(Exception):
    """Base of all errors that dit360 raises on purpose."""


class InputError(Dit360Error, ValueError):
    """Something the user gave cannot be used: an option, a prompt, a file."""


class ModelError(InputError):
    """A model or LoRA cannot be loaded: parts missing, damaged, pickled, of another kind, or not reachable."""


class UnknownName(InputError):
    """No offer of that kind has that name; the sentence holds the nearest names."""


def mark_as_callers(error: BaseException) -> None:
    """Says of an exception that it is of code that the user gave us, so that it is passed on as it is."""
    error.__dict__["dit360_callers"] = True


def is_callers(error: BaseException) -> bool:
    """Whether :func:`mark_as_callers` was said of it."""
    return "dit360_callers" in error.__dict__


def first_line(error: BaseException) -> str:
    """What another library's exception says first, or its class if it says nothing: its part of our sentence."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class BackendUnavailable(Dit360Error):
    """A backend was asked for by name and cannot run here.

    ``reasons`` maps each candidate that was tried (``"distribution:name"``) to why it was refused.
    """

    def __init__(self, message: str, reasons: Mapping[str, Iterable[Reason]] | None = None) -> None:
        super().__init__(message)
        self.reasons = {name: tuple(why) for name, why in (reasons or {}).items()}
