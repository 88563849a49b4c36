"""Lists as spreadsheets write them: CSV with a header, in the habits of Excel, LibreOffice and pandas."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dit360_core.batching.telling import in_line
from dit360_core.errors import InputError
from dit360_core.options import OF_A_LINE, options_of

_SIGNS = (",", ";", "\t", "|")
"""What may stand between the cells of a row: Excel takes what the system's language has."""
_TOLD_SIGN = re.compile(r'"?sep=(.?)"?[;,\t ]*(?:\r\n|\n|\r|\Z)', re.IGNORECASE)
"""A first line that tells Excel what stands there."""
_EMPTY = re.compile(r'\A(?:[,;\t|" ]*(?:\r\n|\n|\r))+')
_OPTIONS = {name: option for cls in OF_A_LINE for name, option in options_of(cls).items()}
_KNOWN = {*_OPTIONS, "name", "image", "mask", "photo"}


def rows_of(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, cells that are not empty, by their columns) of each row of a CSV file that is not empty.

    Raises InputError, which names the line, if that is no table with a column ``prompt``.
    """
    told = _TOLD_SIGN.match(text)
    if told and not told[1]:
        raise InputError(f"{path}, line 1: sep= names no sign; write sep=; or leave the line out.")
    text = text[told.end() :] if told else text
    before = 1 if told else 0
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=told[1] if told else _delimiter(text))
    try:
        header: list[str] = []
        for row in rows:
            line = before + rows.line_num
            if not any(cell.strip() for cell in row):
                continue
            with in_line(path, line):
                if not header:
                    header = _columns(row)
                    continue
                _check_cells(row, header)
                cells = {name: _typed(name, cell) for name, cell in zip(header, row, strict=False) if cell.strip()}
            yield line, cells
        if not header:
            raise InputError(f"{path} is empty; name the columns in the first line, one of them prompt.")
    except csv.Error as error:
        line = before + rows.line_num
        raise InputError(f"{path}, line {line}: it is not CSV ({error}); check the quotes.") from error


def _delimiter(text: str) -> str:
    """The sign that makes the header one of columns that are known: another may stand within its cells."""

    text = _EMPTY.sub("", text)

    def sense(sign: str) -> tuple[bool, int, int]:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=sign), [])
        except csv.Error:
            return (False, 0, 0)
        names = [_column(name) for name in header]
        return (_says_what(names), len(_KNOWN.intersection(names)), len(names))

    return max(_SIGNS, key=sense)


def _says_what(names: list[str]) -> bool:
    """Whether columns say what pictures show: in words, or by pictures that are made larger and tell it themselves."""
    return "prompt" in names or {"image", "upscale"} <= set(names)


def _column(cell: str) -> str:
    """A column as its option is called, which may be written as its flag is (--true-guidance), or with spaces."""
    name = cell.strip().lower()
    option = re.sub(r"[\s-]+", "_", name.removeprefix("--"))
    return option if option in _KNOWN else name


def _columns(row: list[str]) -> list[str]:
    header = [_column(cell) for cell in row]
    while not header[-1]:  # spreadsheets write columns that were emptied
        header.pop()
    if not _says_what(header):
        found = ", ".join(header)[:80]
        raise InputError(f"the header has no column prompt, but {found}; name the columns in the first line.")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise InputError(f"the header has two columns {twice[0]!r}; leave one out.")
    return header


def _check_cells(row: list[str], header: list[str]) -> None:
    """Raises InputError if a row has not the columns of the header, but for empty cells behind them."""
    more = [cell for cell in row[len(header) :] if cell.strip()]
    if len(row) < len(header) or more:
        text = "quote texts with commas"
        # A number that was written as many languages do is two cells.
        broken = any(
            re.fullmatch(r"\s*[+-]?\d+", one) and re.fullmatch(r"\d+\s*", other)
            for one, other in itertools.pairwise(row)
        )
        if more and broken:
            text += ", and write numbers with a decimal point (3.5)"
        columns = f"the {len(header)} columns" if len(header) > 1 else "the one column"
        raise InputError(f"it has not {columns} of the header, but {len(row)}; {text}.")
    for at, (name, cell) in enumerate(zip(header, row, strict=False), 1):
        if not name and cell.strip():
            raise InputError(f"column {at} holds {cell.strip()[:40]!r} and has no name in the header; give it one.")


def _typed(name: str, cell: str) -> Any:
    """A cell as its option's type. What it is not is passed on as text, and refused with the option's own words."""
    cell = cell.strip()
    if name not in _OPTIONS and name != "upscale":
        return cell
    kind = _OPTIONS[name].kind if name in _OPTIONS else int
    try:
        if kind is int:
            # pandas writes whole numbers of a column with gaps so; 2.000 is two thousand to many.
            return int(re.sub(r"\.0?\Z", "", cell))
        if kind is float:
            return float(cell)
    except ValueError:
        return cell
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.lower(), cell)
    return cell
