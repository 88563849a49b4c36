"""The core's sentences in words of the command line: it names options as Python does, and a terminal has flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, flag, options_of

_CLASSES = (LoadOptions, SampleOptions, DecodeOptions)
COLUMNS = frozenset({*options_of(SampleOptions), *options_of(DecodeOptions), "image", "lora"})
"""What a list of a batch may have as columns, which are called as the options are."""
PYTHONS = {"overwrite": "--force", "force": "--force", "image": "--image", "ray_address": "--ray-address"}
"""Arguments of functions that are no options of those classes."""

# A name is neither a part of a path nor of another word; a point may only end the sentence.
_BEFORE = r"(?<![\w./\\=~-])"
_AFTER = r"(?![\w=/\\]|\.\w|-\w)"
_VALUE = r"""(?:'[^']*'|[^\s,;()'"]*[^\s,;()'".:?])?"""
_IN_LIST = re.compile(r"^.*?, line \d+(?:, failed)?: ", re.DOTALL)
# What somebody else said: a text in quotes, and an exception to the end of its clause.
_OTHERS = re.compile(r"(?<![\w=])'[^']*'(?!\w)|(?<![\w=])\"[^\"]*\"|\b\w*(?:Error|Exception)\b[:(].*?(?=; |$)")


@attrs.frozen(kw_only=True)
class Wording:
    """flags: option → flag. switches: those that take no value. off: of switches, the flag that says no.

    typed: what the user wrote, which stays as it is. given: options whose flags stand on the command line.
    """

    flags: Mapping[str, str]
    switches: frozenset[str] = frozenset()
    off: Mapping[str, str] = attrs.field(factory=dict)
    typed: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()

    def __call__(self, sentence: str) -> str:
        """The sentence with flags where it names options."""
        in_list = _IN_LIST.match(sentence)
        where, sentence = (in_list[0], sentence[in_list.end() :]) if in_list else ("", sentence)
        # In a list they are columns, unless it was the command line that said it for all lines.
        flags = {n: f for n, f in self.flags.items() if not (where and n in COLUMNS and n not in self.given)}
        if not flags:
            return where + sentence
        told, at = [], 0
        for begin, end in _kept(sentence, [text for text in self.typed if self._named(text, flags) != text]):
            told += [self._named(sentence[at:begin], flags, first=at == 0), sentence[begin:end]]
            at = end
        return where + "".join(told) + self._named(sentence[at:], flags, first=at == 0)

    def _named(self, text: str, flags: Mapping[str, str], *, first: bool = True) -> str:
        any_ = "|".join(sorted(flags, key=len, reverse=True))
        long = "|".join(name for name in sorted(flags, key=len, reverse=True) if "_" in name)

        def assigned(found: re.Match[str]) -> str:
            name, value = found[1], found[2]
            if name in self.switches and value in ("True", "False", "true", "false"):
                return flags[name] if value.lower() == "true" else self.off.get(name, f"no {flags[name]}")
            return f"{flags[name]} {value}" if value else flags[name]

        def named(group: int = 1) -> Callable[[re.Match[str]], str]:
            return lambda found: found[0].replace(found[group], flags[found[group]], 1)

        text = re.sub(rf"{_BEFORE}({any_})=({_VALUE})", assigned, text)
        if long:
            text = re.sub(rf"{_BEFORE}({long}){_AFTER}", named(), text)
        if first:
            text = re.sub(rf"^({any_})(?= (?:is|must|has|needs|belongs)\b)", named(), text)
        for form in _FORMS:
            text = re.sub(form.format(any_), named(), text)
        return text


# Names that are words of everyday language too are options where a sentence tells to do something with them.
_FORMS = (
    r"\((?:--)?({0})\)",
    r"\b(?:one|it) with ({0})(?=[,;.])",
    r"\bleave (?:the )?({0}) out\b",
    r"\bset ({0}) (?=to\b|above\b|below\b)",
    r"\b(?:use|give|take|or) (?:a |an )?(?:higher|lower|smaller|greater|another) ({0})" + _AFTER,
    r"\buse ({0}) (?=\d|bf16\b|fp16\b|fp32\b)",
)


def _kept(sentence: str, typed: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(begin, end) of what is not ours to word, in order and apart from each other."""
    found = [(match.start(), match.end()) for match in _OTHERS.finditer(sentence)]
    for text in typed:
        found += [(match.start(), match.end()) for match in re.finditer(re.escape(text), sentence)]
    at = 0
    for begin, end in sorted(found):
        if begin >= at:
            yield begin, end
            at = end


def _every_flag() -> dict[str, str]:
    return {name: flag(name) for cls in _CLASSES for name in options_of(cls) if name != "prompt"}


_SWITCHES = frozenset(name for cls in _CLASSES for name, option in options_of(cls).items() if option.kind is bool)
_OFF = {
    name: flag(f"no_{name}")
    for cls in _CLASSES
    for name, option in options_of(cls).items()
    if name in _SWITCHES and option.default is not False
}

_now: list[Wording] = []


def begin(own: Mapping[str, str], typed: Sequence[str]) -> None:
    """A command begins. own: its options and their flags, where they are called otherwise. typed: its arguments."""
    values = tuple(value for text in typed for value in (text, text.partition("=")[2]) if len(value) > 1)
    # What bench's --vary is told as NAME=VALUE has no flag there.
    varied = {name.strip().replace("-", "_") for text in values for name in re.findall(r"(?:^|\+)([\w-]+)=", text)}
    flags = {name: text for name, text in {**_every_flag(), **PYTHONS, **own}.items() if name not in varied}
    words = {text.partition("=")[0].replace("_", "-") for text in typed if text.startswith("--")}
    _now[:] = [
        Wording(
            flags=flags,
            switches=_SWITCHES,
            off=_OFF,
            typed=tuple(value for value in values if not value.startswith("--")),
            given=frozenset(name for name, text in flags.items() if {text, _OFF.get(name)} & words),
        )
    ]


def current() -> Wording:
    """That of the command that runs."""
    return _now[0] if _now else Wording(flags={**_every_flag(), **PYTHONS}, switches=_SWITCHES, off=_OFF)


def worded(sentence: str) -> str:
    """A sentence of the core for a terminal."""
    return current()(sentence)
