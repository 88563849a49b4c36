"""The header of a GGUF file: what it says of itself, and where its tensors lie. No number of it is believed unread.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The ``gguf`` package's reader follows counts to
wherever they lead; here each is compared with the length of the file first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import attrs
from dit360_core.plugins import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Type of a value → how it is written."""
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 4
_DEEPEST = 4
_LONGEST_NAME = 512
_KEPT = 4096
"""Values of a list that are kept: vocabularies are not wanted."""
_LEAST_TENSOR, _LEAST_KEY = 8 + 4 + 8 + 4 + 8, 8 + 4 + 1
"""Bytes that the description of a tensor, and a key with its value, take at least."""


@attrs.frozen(kw_only=True)
class Entry:
    """One tensor.

    kind: number of its type.
    shape: its rows first, as PyTorch has it.
    begin: byte of the file at which it begins.
    """

    kind: int
    shape: tuple[int, ...]
    begin: int


@attrs.frozen(kw_only=True)
class Header:
    """What a file says.

    values: key → number, text, or a list of them that may be cut off.
    entries: name of a tensor → where it is.
    """

    values: dict[str, Any]
    entries: dict[str, Entry]


def read_header(file: Path) -> Header:
    """The header of a file. Raises ModelError if it is none of GGUF's, or is damaged."""
    try:
        with file.open("rb") as opened:
            return _Reader(file, opened).header()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}); check its permissions.") from error


class _Reader:
    def __init__(self, file: Path, opened: BinaryIO) -> None:
        self._file, self._opened = file, opened
        self._size = file.stat().st_size

    def header(self) -> Header:
        magic = self._opened.read(4)
        if magic != MAGIC:
            self._damaged("it does not begin as a GGUF file does")
        version = self._number("<I")
        if version not in VERSIONS:
            if version in (v << 24 for v in VERSIONS):
                self._damaged("its numbers are in the other order of bytes")
            self._damaged(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are read")
        tensors, keys = self._number("<Q"), self._number("<Q")
        self._room(tensors * _LEAST_TENSOR + keys * _LEAST_KEY, "its counts")
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            values[name] = self._value(self._number("<I"))
        found: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            name = self._text(_LONGEST_NAME)
            if not name.isprintable():
                self._damaged(f"the name of a tensor cannot be shown ({name!r:.80})")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= _MOST_DIMENSIONS:
                self._damaged(f"{name} has {dimensions} dimensions")
            shape = tuple(self._number("<Q") for _ in range(dimensions))
            kind, offset = self._number("<I"), self._number("<Q")
            if name in found:
                self._damaged(f"{name} is there twice")
            if math.prod(shape) > 2**48 or 0 in shape:
                self._damaged(f"{name} has the shape {list(shape)}")
            found[name] = kind, shape[::-1], offset
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or not 1 <= alignment <= 2**20:
            self._damaged(f"its alignment is {alignment!r:.40}")
        start = -(-self._opened.tell() // alignment) * alignment
        for name, (_, _, offset) in found.items():
            if offset % alignment or start + offset > self._size:
                self._damaged(f"{name} begins at byte {offset} of {max(0, self._size - start)}")
        entries = {
            name: Entry(kind=kind, shape=shape, begin=start + offset) for name, (kind, shape, offset) in found.items()
        }
        return Header(values=values, entries=entries)

    # -------------------------------------------------------------------------------------------------------- values

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        self._room(count, "a text or number")
        found = self._opened.read(count)
        if len(found) != count:
            self._damaged("it ends within its header")
        return found

    def _room(self, count: int, what: str) -> None:
        if count > self._size - self._opened.tell():
            self._damaged(f"{what} would reach beyond its {self._size} bytes")

    def _text(self, longest: int = 2**62) -> str:
        length = self._number("<Q")
        if length > longest:
            self._damaged(f"a name has {length} letters")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError as error:
            self._damaged(f"a text is none ({error.reason})")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            if kind not in _NUMBERS:
                self._damaged(f"a value is of the type {kind}")
            return self._number(_NUMBERS[kind])
        of, count = self._number("<I"), self._number("<Q")
        if of in _NUMBERS:
            size = struct.calcsize(_NUMBERS[of])
            self._room(count * size, "a list")
            kept = min(count, _KEPT)
            found = [self._number(_NUMBERS[of]) for _ in range(kept)]
            self._opened.seek((count - kept) * size, 1)
            return found
        if depth == _DEEPEST:
            self._damaged("its lists lie in one another")
        # A text takes eight bytes at least, and a list twelve.
        self._room(count * 8, "a list")
        read: Callable[[], Any] = self._text if of == _TEXT else lambda: self._value(of, depth + 1)
        several = []
        for number in range(count):
            one = read()
            if number < _KEPT:
                several.append(one)
        return several

    def _damaged(self, why: str) -> NoReturn:
        raise ModelError(f"{self._file} is damaged or no GGUF file: {why}; download it again.")
