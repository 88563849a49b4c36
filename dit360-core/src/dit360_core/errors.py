"""What can go wrong, told in one sentence: what, why, what to do.

Every error of ours is a :class:`Dit360Error`; the command line prints its text and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs


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


REASON_CODES = (
    "missing",
    "version",
    "import_failed",
    "device",
    "capability",
    "dtype",
    "head_dim",
    "mask",
    "size",
    "mode",
    "structure",
    "api",
    "clash",
    "probe_failed",
    "offer_failed",
)


@attrs.frozen
class Reason:
    """Why something cannot be used.

    code: one of :data:`REASON_CODES`, for programs. sentence: for people. hint: the command or change that would fix
    it, or empty when nothing would.
    """

    code: str = attrs.field(validator=attrs.validators.in_(REASON_CODES))
    sentence: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.sentence} ({self.hint})" if self.hint else self.sentence


class BackendUnavailable(Dit360Error):
    """A backend was asked for by name and cannot run here.

    ``reasons`` maps each candidate that was tried (``"distribution:name"``) to why it was refused.
    """

    def __init__(self, message: str, reasons: Mapping[str, Iterable[Reason]] | None = None) -> None:
        super().__init__(message)
        self.reasons = {name: tuple(why) for name, why in (reasons or {}).items()}
