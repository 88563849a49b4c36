"""Sentences that carry the options they name, and the advice they give, so that each surface can word them.

Python calls an option ``steps``, a terminal ``--steps``, a node by its input. A sentence therefore marks what it names:

>>> plain(f"It computes in bf16; use {setting('precision', 'bf16')}.")
'It computes in bf16; use precision=bf16.'

Marks are characters of Unicode that are reserved for use inside of a program and stand in no text. A marked text is put
into others, joined and cut as any text is. Whatever is not marked stays as it is on every surface.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_OPTION, _REMEDY, _LINE, _END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_UNMARKED = str.maketrans("", "", _OPTION + _REMEDY + _LINE + _END)
_MARKED = re.compile(f"([{_OPTION}{_REMEDY}{_LINE}])([^{_OPTION}-{_END}]*){_END}")

REMEDIES = {
    "leave_out": "leave it out",
    "leave_one_of_them_out": "leave one of them out",
    "list_backends": "'dit360 backends' lists them",
    "see_backends": "see 'dit360 backends'",
    "encode_with_this_model": "encode the prompt with this model's text encoders",
    "give_diffusers_folder": "give the folder that save_pretrained wrote",
}
"""Code → advice that surfaces word in their own way, as Python says it."""
_CODES = {phrase: code for code, phrase in REMEDIES.items()}


def named(option: str) -> str:
    """An option in a sentence.

    option: as Python calls it, such as ``steps``.
    """
    return f"{_OPTION}{plain(option)}{_END}"


def setting(option: str, value: object) -> str:
    """An option with a value in a sentence: ``precision=bf16``.

    option: as Python calls it.
    value: what it is or is to be, written as ``str`` does.
    """
    return f"{_OPTION}{plain(option)}={plain(str(value))}{_END}"


def remedy(code: str) -> str:
    """Advice that surfaces word in their own way.

    code: one of :data:`REMEDIES`.
    """
    return f"{_REMEDY}{REMEDIES[code]}{_END}"


def line_of_list(where: str) -> str:
    """Which line of a list a sentence is about: the options it names are columns there.

    where: in words, such as ``p.csv, line 2``.
    """
    return f"{_LINE}{plain(where)}{_END}"


def plain(text: str) -> str:
    """The sentence as Python says it, without marks.

    text: marked or not.
    """
    return text.translate(_UNMARKED)


class Surface:
    """How options, settings and advice are called; as Python does, where a subclass says nothing else."""

    def option(self, name: str) -> str:
        """An option.

        name: as Python calls it.
        """
        return name

    def setting(self, name: str, value: str) -> str:
        """An option with a value.

        name: as Python calls it.
        value: as the sentence has it.
        """
        return f"{self.option(name)}={value}"

    def remedy(self, code: str) -> str:
        """Advice.

        code: one of :data:`REMEDIES`.
        """
        return REMEDIES[code]


def worded(text: str, surface: Surface) -> str:
    """The sentence in a surface's words, without marks.

    text: marked or not.
    surface: says what things are called there.
    """

    def told(found: re.Match[str]) -> str:
        kind, content = found[1], found[2]
        if kind == _REMEDY and content in _CODES:
            return surface.remedy(_CODES[content])
        if kind != _OPTION:
            return content
        name, sign, value = content.partition("=")
        return surface.setting(name, value) if sign else surface.option(name)

    return plain(_MARKED.sub(told, text))


def options_in(text: str) -> tuple[str, ...]:
    """The options that a sentence names, each once, in order.

    text: marked or not.
    """
    return tuple(dict.fromkeys(content.partition("=")[0] for content in _contents(text, _OPTION)))


def remedies_in(text: str) -> tuple[str, ...]:
    """The codes of the advice that a sentence gives, each once, in order.

    text: marked or not.
    """
    return tuple(dict.fromkeys(_CODES[content] for content in _contents(text, _REMEDY) if content in _CODES))


def is_about_a_line(text: str) -> bool:
    """Whether a sentence is about one line of a list, as :func:`line_of_list` marks it.

    text: marked or not.
    """
    return any(_contents(text, _LINE))


def _contents(text: str, kind: str) -> Iterator[str]:
    return (found[2] for found in _MARKED.finditer(text) if found[1] == kind)


class Sentence(str):
    """A sentence that is data: plain to whoever reads, compares or writes it, with its marks kept beside.

    marked: the same sentence with its marks.
    """

    __slots__ = ("marked",)
    marked: str

    def __new__(cls, text: str) -> Sentence:
        """text: marked or not."""
        made = super().__new__(cls, plain(text))
        made.marked = marked(text)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Sentence, (self.marked,)


def marked(text: str) -> str:
    """The sentence with its marks, to be put into another or told on a surface.

    text: one that was kept as data, or any other.
    """
    return text.marked if isinstance(text, Sentence) else text
