"""Help pages in plain columns: no name is ever cut, and few options are shown until all are asked for."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from dit360_core.options.subjects import SUBJECTS, USUAL

LEAST, MOST = 40, 100
"""Columns that a page takes, however narrow or wide the terminal is."""
INDENT, GAP = 2, 2
NAMES = 30
"""Columns of the widest name that has its text beside it; below a longer one it begins a line."""
OWN = "Options"
"""Above the options that belong to the command and not to what it works on."""
EVERY = "--help-all"
RARE = ("bits", "expand_highlights", "preview", "profile", "server")
"""Options of commands that few people use."""


_KINDS = {
    "integer": "N", "int": "N", "float": "X", "path": "FILE", "Path": "FILE", "text": "TEXT", "str": "TEXT",
}  # fmt: skip


@attrs.frozen
class Row:
    """One entry of a page.

    name: as it is typed.
    text: what it means.
    """

    name: str
    text: str


def page(command: Any, context: Any, *, every: bool) -> str:
    """The help page of a command.

    every: with all of its options, by subject.
    """
    width = columns()
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    few = options if every else sorted((one for one in options if is_usual(one)), key=_place)
    groups = _by_subject(few) if every and _has_subjects(options) else {OWN: few}
    typed = " ".join(["[OPTIONS]", *(_metavar(one) for one in arguments)])
    parts = [
        _paragraph(f"Usage: {context.command_path} {typed}", width),
        _paragraph(_first(command.help), width, INDENT),
    ]
    if arguments:
        parts.append(_table("Arguments", [Row(_metavar(one), _text(one)) for one in arguments], width))
    for subject, members in groups.items():
        rows = [Row(_names(one), _text(one)) for one in members]
        if subject == OWN:
            rows.append(Row("-h, --help", "Show this page."))
            if len(few) < len(options) or (every and _has_subjects(options)):
                rows.append(Row(EVERY, "Show all options, by subject."))
        parts.append(_table(subject, rows, width))
    if len(few) < len(options):
        hidden = len(options) - len(few)
        parts.append(_paragraph(f"{hidden} more options: {context.command_path} {EVERY}", width))
    return "\n\n".join(parts) + "\n"


def overview(group: Any, context: Any) -> str:
    """The help page of all commands."""
    width = columns()
    commands = [Row(name, _first(one.help)) for name, one in group.commands.items() if not one.hidden]
    options = [Row(_names(one), _text(one)) for one in group.params if not one.hidden]
    rows = [*options, Row("-h, --help", "Show this page.")]
    parts = [
        _paragraph(context.get_usage(), width),
        _paragraph(group.help, width, INDENT),
        _table("Commands", commands, width),
        _table(OWN, rows, width),
        _paragraph('Begin with: dit360 generate "a castle above a meadow at sunset"', width),
    ]
    return "\n\n".join(parts) + "\n"


def is_usual(option: Any) -> bool:
    """Whether an option is shown without being asked for: most that are the command's own, and a few of the others."""
    if option.required or not _is_grouped(option):
        return option.name not in RARE
    return option.name in USUAL


def _is_grouped(option: Any) -> bool:
    return getattr(option, "rich_help_panel", None) is not None


def _place(option: Any) -> int:
    """The command's own first, then the others as most people need them."""
    return USUAL.index(option.name) if _is_grouped(option) and option.name in USUAL else -1


def columns() -> int:
    """Of a page in this terminal."""
    return max(LEAST, min(MOST, shutil.get_terminal_size().columns))


def _has_subjects(options: Iterable[Any]) -> bool:
    return any(not is_usual(one) for one in options)


def _by_subject(options: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {OWN: []}
    for subject, names in SUBJECTS.items():
        found[subject] = [one for one in options if _is_grouped(one) and one.name in names]
    taken = {one.name for members in found.values() for one in members}
    found[OWN] = [one for one in options if one.name not in taken]
    return {subject: members for subject, members in found.items() if members}


def _table(title: str, rows: list[Row], width: int) -> str:
    widest = min(NAMES, max(len(row.name) for row in rows))
    if width < NAMES + 30:
        widest = 0  # too narrow for two columns: every text begins a line of its own
    lines = [f"{title}:"]
    for row in rows:
        lines += _entry(row, widest, width)
    return "\n".join(lines)


def _entry(row: Row, widest: int, width: int) -> Iterator[str]:
    indent = INDENT + (widest + GAP if widest else 4)
    lines = _wrapped(row.text, width - indent)
    name = " " * INDENT + row.name
    if not lines:
        yield name
        return
    if len(name) + GAP <= indent:
        yield name.ljust(indent) + lines.pop(0)
    else:
        yield name
    yield from (" " * indent + line for line in lines)


def _paragraph(text: str, width: int, indent: int = 0) -> str:
    return "\n".join(" " * indent + line for line in _wrapped(text, width - indent))


def _wrapped(text: str, width: int) -> list[str]:
    # A range stays in one line.
    bound = text.replace(" … ", "\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(bound, max(20, width), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _first(text: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    short = [text for text in option.opts if not text.startswith("--")]
    # Whoever has not switched it on has no need to switch it off.
    off = [] if option.default is False else option.secondary_opts
    long = [text for text in (*option.opts, *off) if text.startswith("--")]
    value = "" if option.is_flag else f" {_value(option)}"
    if option.is_flag and off:
        return ", ".join(short) + (", " if short else "") + "/".join(long)
    return ", ".join((*short, *long)) + value


def _value(option: Any) -> str:
    """What stands behind the name of an option that takes a value."""
    if option.metavar:
        return str(option.metavar)
    return _KINDS.get(_kind(option), "VALUE")


def _kind(option: Any) -> str:
    """The name of an option's type; typer's versions keep it in two places."""
    told = getattr(getattr(option, "type", None), "name", None)
    if told is not None:
        return str(told)
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", str)
    return str(getattr(annotation, "__name__", annotation))


def _text(parameter: Any) -> str:
    """What a parameter means, with what it is where nobody says otherwise."""
    told = _first(parameter.help)
    shows = getattr(parameter, "show_default", True)
    if isinstance(shows, str):
        return f"{told} Default: {shows}."
    default = parameter.default
    if not shows or parameter.required or default in (None, False, "", ()) or callable(default):
        return told
    if default is True:
        return f"{told} Default: on." if parameter.secondary_opts else told
    return f"{told} Default: {default:g}." if isinstance(default, float) else f"{told} Default: {default}."
