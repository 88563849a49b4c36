"""Why something cannot be used: a code for programs, a sentence and a hint for people."""

from __future__ import annotations

import attrs

from dit360_core.errors.sentences import Sentence, marked

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


def _said(text: str) -> str:
    # A plugin may give anything, which its contract suite tells.
    return Sentence(text) if isinstance(text, str) else text


@attrs.frozen
class Reason:
    """Why something cannot be used.

    code: one of :data:`REASON_CODES`, for programs.
    sentence: for people.
    hint: the command or change that would fix it, or empty when nothing would. Options that either names are marked
    (:func:`~dit360_core.errors.sentences.setting`); read here, the texts are plain.
    """

    code: str = attrs.field(validator=attrs.validators.in_(REASON_CODES))
    sentence: str = attrs.field(converter=_said)
    hint: str = attrs.field(default="", converter=_said)

    @property
    def told(self) -> str:
        """Sentence and hint, with their marks."""
        return f"{marked(self.sentence)} ({marked(self.hint)})" if self.hint else marked(self.sentence)

    def __str__(self) -> str:
        return f"{self.sentence} ({self.hint})" if self.hint else str(self.sentence)
