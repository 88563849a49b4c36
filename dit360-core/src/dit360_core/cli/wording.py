"""The core's sentences in words of the command line: they mark the options they name, and a terminal has flags."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import attrs

from dit360_core.cli.precedence import Taken
from dit360_core.errors.sentences import Surface, is_about_a_line, marked, options_in
from dit360_core.errors.sentences import worded as worded_for
from dit360_core.options import OF_A_LINE, LoadOptions, flag, options_of

_CLASSES = (LoadOptions, *OF_A_LINE)
COLUMNS = frozenset(
    {
        *(name for cls in OF_A_LINE for name in options_of(cls)),
        "image",
        "mask",
        "photo",
        "lora",
        "upscale",
    }
)
"""What a list of a batch may have as columns, which are called as the options are."""
PYTHONS = {
    "overwrite": "--force", "force": "--force", "image": "--image", "mask": "--mask", "photo": "--photo",
    "ray_address": "--ray-address", "bits": "--bits", "expand_highlights": "--expand-highlights",
}  # fmt: skip
"""Arguments of functions that are no options of those classes."""


@attrs.frozen(kw_only=True)
class Wording(Surface):
    """The words of the command line.

    flags: option → flag.
    switches: those that take no value.
    off: of switches, the flag that says no.

    given: options whose flags stand on the command line.
    taken: options whose values are from a user's own defaults.
    """

    flags: Mapping[str, str]
    switches: frozenset[str] = frozenset()
    off: Mapping[str, str] = attrs.field(factory=dict)
    given: frozenset[str] = frozenset()
    taken: Taken = attrs.field(factory=Taken)

    def __call__(self, sentence: str) -> str:
        """The sentence with flags where it names options."""
        # In a list they are columns, unless it was the command line that said it for all lines.
        columns = COLUMNS - self.given if is_about_a_line(sentence) else frozenset()
        flags = {name: text for name, text in self.flags.items() if name not in columns}
        return worded_for(sentence, attrs.evolve(self, flags=flags))

    def option(self, name: str) -> str:
        """Its flag, where the command has one.

        name: as Python calls it.
        """
        return self.flags.get(name, name)

    def setting(self, name: str, value: str) -> str:
        """As it is typed.

        name: as Python calls it.
        value: as the sentence has it.
        """
        if name not in self.flags:
            return f"{name}={value}"
        if name in self.switches and value in ("True", "False"):
            return self.flags[name] if value == "True" else self.off.get(name, f"no {self.flags[name]}")
        return f"{self.flags[name]} {value}"


def _every_flag() -> dict[str, str]:
    return {name: flag(name) for cls in _CLASSES for name in options_of(cls) if name != "prompt"}


_SWITCHES = frozenset(name for cls in _CLASSES for name, option in options_of(cls).items() if option.kind is bool)
_OFF = {name: flag(f"no_{name}") for name in _SWITCHES}

_now: list[Wording] = []


def begin(own: Mapping[str, str], typed: Sequence[str]) -> None:
    """A command begins.

    own: its options and their flags, where they are called otherwise.
    typed: its arguments.
    """
    values = tuple(value for text in typed for value in (text, text.partition("=")[2]) if len(value) > 1)
    words = {text.partition("=")[0].replace("_", "-") for text in typed if text.startswith("--")}
    # What bench's --vary is told as NAME=VALUE has no flag there. Elsewhere such a word is a prompt or a file's name.
    varied = {
        name.strip().replace("-", "_")
        for text in (values if "--vary" in words else ())
        for name in re.findall(r"(?:^|\+)([\w-]+)=", text)
    }
    flags = {name: text for name, text in {**_every_flag(), **PYTHONS, **own}.items() if name not in varied}
    _now[:] = [
        Wording(
            flags=flags,
            switches=_SWITCHES,
            off=_OFF,
            given=frozenset(name for name, text in flags.items() if {text, off_of(text)} & words),
        )
    ]


def off_of(text: str) -> str:
    """The flag that says no to a switch.

    text: its flag.
    """
    return f"--no-{text.removeprefix('--')}"


def take(taken: Taken) -> None:
    """What the command that runs takes of a user's own defaults."""
    _now[:] = [attrs.evolve(current(), taken=taken)]


def take_back(changed: Collection[str]) -> None:
    """These options are from elsewhere after all, such as a picture that is followed."""
    taken = current().taken
    take(attrs.evolve(taken, options=taken.options - frozenset(changed)))


def current() -> Wording:
    """That of the command that runs."""
    return _now[0] if _now else Wording(flags={**_every_flag(), **PYTHONS}, switches=_SWITCHES, off=_OFF)


def worded(sentence: str) -> str:
    """A sentence of the core for a terminal.

    sentence: with its marks, or kept as data.
    """
    return current()(marked(sentence))


def with_its_file(sentence: str) -> str:
    """What is wrong, for a terminal, with the file of defaults that values in it are from: nobody typed them.

    sentence: with its marks, or kept as data.
    """
    words = current()
    told, taken = worded(sentence), words.taken
    from_there = [words.option(name) for name in options_in(marked(sentence)) if name in taken.options]
    if not from_there or taken.file is None:
        return told
    are = "is" if len(from_there) == 1 else "are"
    end = told[-1] if told.endswith((".", "?")) else ""
    return f"{told.removesuffix(end)} ({' and '.join(from_there)} {are} from {taken.file}){end}"
