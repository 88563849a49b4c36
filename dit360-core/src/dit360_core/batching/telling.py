"""Where in a list something is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from dit360_core.errors import InputError, named
from dit360_core.errors.sentences import line_of_list

LONGEST_SENTENCE = 500
"""Characters of an error, which may quote what is wrong."""


_OPENING, _END = named("x").split("x")


def as_columns(sentence: str, said: Collection[str]) -> str:
    """The sentence with the options that a line says itself called as that line calls them, on every surface.

    A terminal takes an option that is typed as a flag for the flag, even where the line says another value.

    sentence: with its marks.
    said: by the line.
    """
    if not said:
        return sentence
    return re.sub(f"{_OPENING}((?:{'|'.join(map(re.escape, said))})(?:=[^{_END}]*)?){_END}", r"\1", sentence)


@contextmanager
def in_line(path: Path, line: int, everywhere: str = "", said: Collection[str] = ()) -> Iterator[None]:
    """Puts the file and the line before what is wrong there, unless that is wrong ``everywhere``.

    said: options that the line says itself.
    """
    try:
        yield
    except InputError as error:
        if error.sentence == everywhere:
            raise
        why = as_columns(error.sentence, said)
        why = why if len(why) <= LONGEST_SENTENCE else f"{why[:LONGEST_SENTENCE]} …"
        raise InputError(f"{line_of_list(f'{path}, line {line}')}: {why}") from error
