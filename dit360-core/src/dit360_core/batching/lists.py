"""The three kinds of lists: a text file with a prompt in each line, JSON lines, and CSV with a header."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dit360_core.batching.tables import rows_of
from dit360_core.batching.telling import in_line
from dit360_core.errors import InputError, first_line

SUFFIXES = (".jsonl", ".csv", ".txt")

_LINE_END = re.compile(r"\r\n|\n|\r")
"""Nothing else ends a line: Python's splitlines also cuts at page breaks and signs that a text may hold (U+2028)."""
_END_OF_FILE = re.compile(r"\x1a\s*\Z")
"""Ctrl-Z, with which programs of the DOS age end a text."""

LONGEST_LIST = 64 * 2**20
"""Bytes. A list is read whole, so that a mistake in its last line is told before the first picture."""


def lines_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, what it says) of each line that is not blank."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES and not os.path.isdir(path):
        raise InputError(f"Cannot read {path}: the suffix says no known kind of list; end it in {', '.join(SUFFIXES)}.")
    text = _text(path)
    if kind == ".csv":
        yield from rows_of(path, text)
        return
    for number, line in enumerate(_LINE_END.split(text), 1):
        # A file that was joined of several holds the mark of an encoding before later lines, too.
        line = line.strip("\ufeff").strip()
        if line:
            with in_line(path, number):
                told = {"prompt": line} if kind == ".txt" else _object(line)
            yield number, told


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "there is no such file"
            raise InputError(f"Cannot read {path}: {what}; name a list of prompts ({', '.join(SUFFIXES)}).")
        if path.stat().st_size > LONGEST_LIST:
            raise InputError(f"Cannot read {path}: it has over {LONGEST_LIST >> 20} MiB; split the list.")
        data = path.read_bytes()
        # Windows' editors and Excel write both, and mark UTF-16.
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-8 text" if error.encoding.startswith("utf-8") else "the UTF-16 text that its first bytes say"
        hint = 'save it as UTF-8 (in Excel: "CSV UTF-8")' if path.suffix.lower() == ".csv" else "save it as UTF-8"
        raise InputError(f"Cannot read {path}: it is not {kind} (byte {error.start}); {hint}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}; check the name.") from error
    return _END_OF_FILE.sub("", text)


def _object(text: str) -> Mapping[str, Any]:
    try:
        told = json.loads(text, object_pairs_hook=_once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
        why = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
        raise InputError(f'it is not JSON ({why}); write {{"prompt": "…"}} in each line.') from error
    if isinstance(told, str):
        return {"prompt": told}
    if not isinstance(told, dict):
        raise InputError('it is no JSON object; write {"prompt": "…"} in each line.')
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise InputError(f"it says {twice[0]} twice; leave one out.")
    return dict(pairs)
