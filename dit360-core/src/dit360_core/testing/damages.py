"""Files that are cut off, changed or of another kind, and what reading them may come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dit360_core.errors import ModelError

_FIRST, _ENDS, _STEP, _BETWEEN = 48, 600, 3, 60
"""Headers stand at the beginning of a file or at its end. One byte after the other is changed of so many, every third
of so many at either end, and so many in between."""
_CHANGES = (0xFF, 0x01, 0x80)
"""Bits of a byte that are turned over."""

STRANGERS = {
    "that is empty": b"",
    "of zeros": bytes(4096),
    "that is a web page": b"<!DOCTYPE html><html><body>Not found</body></html>\n" * 20,
    "of text": b"weights, weights, weights\n" * 40,
}
"""Of no form of weights: what a file is → its bytes."""


def cut_off(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What is said of a file → its bytes: the beginnings of a whole one."""
    size = len(whole)
    for length in sorted({1, 7, 40, 200, size // 8, size // 2, size - size // 8, size - 40, size - 1}):
        if 0 < length < size:
            yield f"that ends behind {length} of {size} bytes", whole[:length]


def changed(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What is said of a file → its bytes: a whole one with one byte changed, mostly of its header."""
    size = len(whole)
    places = {
        *range(min(size, _FIRST)),
        *range(0, min(size, _ENDS), _STEP),
        *range(max(0, size - _ENDS), size, _STEP),
        *range(0, size, max(1, size // _BETWEEN)),
    }
    for number, place in enumerate(sorted(places)):
        damaged = bytearray(whole)
        damaged[place] ^= _CHANGES[number % len(_CHANGES)]
        yield f"whose byte {place} is {damaged[place]} instead of {whole[place]}", bytes(damaged)


def check_told(error: BaseException, about: str, file: Path) -> None:
    """Raises AssertionError unless an error is a ModelError of one sentence that names the file.

    about: what is wrong with the file.
    """
    text = str(error)
    assert isinstance(error, ModelError), f"a file {about} is a {type(error).__name__}, no ModelError: {text:.200}"
    assert "\n" not in text, f"a file {about} is told in more than one line: {text:.200}"
    assert text.endswith("."), f"a file {about} is told without a full stop: {text:.200}"
    assert str(file) in text, f"a file {about} is told without its name: {text:.200}"
