"""The kinds of errors that dit360 raises on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dit360_core.errors.reasons import Reason
from dit360_core.errors.sentences import marked, options_in, plain, remedies_in


class Dit360Error(Exception):
    """Base of all errors that dit360 raises on purpose.

    Its text is plain, as Python names options. ``sentence`` is the same with its marks, for another sentence that it
    becomes a part of and for a surface that words it (:mod:`dit360_core.errors.sentences`).
    """

    def __init__(self, *args: object) -> None:
        self._marked = marked(args[0]) if args and isinstance(args[0], str) else None
        super().__init__(*(plain(one) if isinstance(one, str) else one for one in args[:1]), *args[1:])

    @property
    def sentence(self) -> str:
        """What it says, with its marks."""
        return str(self) if self._marked is None else self._marked

    @property
    def options(self) -> tuple[str, ...]:
        """The options that it names, as Python calls them."""
        return options_in(self.sentence)

    @property
    def remedies(self) -> tuple[str, ...]:
        """The advice that it gives: codes of :data:`dit360_core.errors.sentences.REMEDIES`."""
        return remedies_in(self.sentence)


class InputError(Dit360Error, ValueError):
    """Something the user gave cannot be used: an option, a prompt, a file."""


class ModelError(InputError):
    """A model or LoRA cannot be loaded: parts missing, damaged, pickled, of another kind, or not reachable."""


class UnknownName(InputError):
    """No offer of that kind has that name; the sentence holds the nearest names."""


class BackendUnavailable(Dit360Error):
    """A backend was asked for by name and cannot run here.

    ``reasons`` maps each candidate that was tried (``"distribution:name"``) to why it was refused.
    """

    def __init__(self, message: str, reasons: Mapping[str, Iterable[Reason]] | None = None) -> None:
        super().__init__(message)
        self.reasons = {name: tuple(why) for name, why in (reasons or {}).items()}
