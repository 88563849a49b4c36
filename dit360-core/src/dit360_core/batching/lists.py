"""The three kinds of lists: a text file with a prompt in each line, JSON lines, and CSV with a header."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, first_line
from dit360_core.options import DecodeOptions, SampleOptions

SUFFIXES = (".jsonl", ".csv", ".txt")

LONGEST_LIST = 64 * 2**20
"""Bytes. A list is read whole, so that a mistake in its last line is told before the first picture."""

LONGEST_SENTENCE = 500
"""Characters of an error, which may quote what is wrong."""


def lines_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, what it says) of each line that is not blank."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES and not os.path.isdir(path):
        raise InputError(f"Cannot read {path}: the suffix says no known kind of list; end it in {', '.join(SUFFIXES)}.")
    text = _text(path)
    if kind == ".txt":
        yield from ((n, {"prompt": line.strip()}) for n, line in enumerate(text.splitlines(), 1) if line.strip())
    elif kind == ".jsonl":
        # Not splitlines, which also cuts at signs that JSON allows within a text.
        yield from ((n, _object(path, n, line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    else:
        yield from _rows(path, text)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "there is no such file"
            raise InputError(f"Cannot read {path}: {what}; name a list of prompts ({', '.join(SUFFIXES)}).")
        if path.stat().st_size > LONGEST_LIST:
            raise InputError(f"Cannot read {path}: it has over {LONGEST_LIST >> 20} MiB; split the list.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read {path}: it is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}; check the name.") from error


def _object(path: Path, line: int, text: str) -> Mapping[str, Any]:
    with in_line(path, line):
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


def _rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Excel writes what the system's language has between the cells of a row.
    first = text.partition("\n")[0]
    delimiter = next((sign for sign in ",;\t" if sign in first), ",")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in rows.fieldnames or []]
        rows.fieldnames = header
        with in_line(path, 1):
            if "prompt" not in header:
                found = ", ".join(header)[:80] or "none"
                raise InputError(f"the header has no column prompt, but {found}; name the columns in the first line.")
            twice = [name for name, count in Counter(header).items() if count > 1]
            if twice:
                raise InputError(f"the header has two columns {twice[0]!r}; leave one out.")
        for row in rows:
            if not any(cell.strip() for cell in row.values() if isinstance(cell, str)):
                continue
            with in_line(path, rows.line_num):
                if None in row or None in row.values():
                    raise InputError(f"it has not the {len(header)} columns of the header; quote texts with commas.")
                yield rows.line_num, {name: _typed(name, cell) for name, cell in row.items() if cell.strip()}
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: it is not CSV ({error}); check the quotes.") from error


def _typed(name: str, cell: str) -> Any:
    """A cell as its option's type. What it is not is passed on as text, and refused with the option's own words."""
    for cls in (SampleOptions, DecodeOptions):
        field = getattr(attrs.fields(cls), name, None)
        if field is None:
            continue
        kind = str(field.type).replace("| None", "").strip()
        try:
            if kind == "int":
                return int(cell)
            if kind == "float":
                return float(cell)
        except ValueError:
            return cell
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)
    return cell.strip()


@contextmanager
def in_line(path: Path, line: int, everywhere: str = "") -> Iterator[None]:
    """Puts the file and the line before what is wrong there, unless that is wrong ``everywhere``."""
    try:
        yield
    except InputError as error:
        said = str(error)
        if said == everywhere:
            raise
        said = said if len(said) <= LONGEST_SENTENCE else f"{said[:LONGEST_SENTENCE]} …"
        raise InputError(f"{path}, line {line}: {said}") from error
