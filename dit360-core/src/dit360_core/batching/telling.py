"""Where in a list something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dit360_core.errors import InputError
from dit360_core.errors.sentences import line_of_list

LONGEST_SENTENCE = 500
"""Characters of an error, which may quote what is wrong."""


@contextmanager
def in_line(path: Path, line: int, everywhere: str = "") -> Iterator[None]:
    """Puts the file and the line before what is wrong there, unless that is wrong ``everywhere``."""
    try:
        yield
    except InputError as error:
        said = error.sentence
        if said == everywhere:
            raise
        said = said if len(said) <= LONGEST_SENTENCE else f"{said[:LONGEST_SENTENCE]} …"
        raise InputError(f"{line_of_list(f'{path}, line {line}')}: {said}") from error
