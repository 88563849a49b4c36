"""The words that a model wants before every prompt."""

from __future__ import annotations

import re

_QUOTES = " \t\r\n\v\f\"'`´«»„“”‚‘’‹›\u00a0\ufeff"
_PANORAMA = "this is a panorama"
"""How prompts of DiT360 begin, whose wording differs: "This is a panorama. The image shows", "This is a panorama image.
The image depicts" (github.com/Insta360-Research-Team/DiT360: inference.py, editing.py)."""


def prefixed(prompt: str, prefix: str) -> tuple[str, str]:
    """The prompt as the model reads it, and what was put before it, which is nothing where it begins so already.

    Compared without regard to case, spaces and quotation marks, and for panoramas by their first words alone.
    """
    wanted, said = _plain(prefix), _plain(prompt)
    there = not wanted or said.startswith(wanted) or (wanted.startswith(_PANORAMA) and said.startswith(_PANORAMA))
    return (prompt, "") if there else (prefix + prompt, prefix)


def spaced(prefix: str) -> str:
    """A prefix that somebody typed, apart from the word that follows."""
    return prefix if not prefix or prefix[-1].isspace() else f"{prefix} "


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip(_QUOTES)).casefold()
