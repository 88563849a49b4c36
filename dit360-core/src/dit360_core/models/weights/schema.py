"""What the keys of a configuration may hold: types and ranges, looked at before anything is built of them.

Only keys that are known here reach a library. So nothing in a model's folder chooses code, or a file elsewhere, not
even by a key that a library learns next year.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError

log = logging.getLogger("dit360")

_SHOWN = 60
"""Characters of a value in a sentence."""


@attrs.frozen
class Value:
    """What one key may hold.

    holds: whether a value is right.
    says: what is right, for a sentence.
    """

    holds: Callable[[Any], bool]
    says: str

    def or_none(self) -> Value:
        """The same, or null."""
        return Value(lambda value: value is None or self.holds(value), f"{self.says}, or null")


@attrs.frozen
class Schema:
    """A configuration.

    values: key → what it may hold.
    ignored: known keys that mean nothing for pictures.
    """

    values: Mapping[str, Value]
    ignored: Collection[str] = frozenset()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError if it is not one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({error}); download the model again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no JSON object; download the model again.")
    return found


def whole(low: int, high: int) -> Value:
    """A whole number in this range."""
    says = f"{low}" if low == high else f"a whole number, {low} … {high}"
    return Value(lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, says)


def number(low: float, high: float) -> Value:
    """A finite number in this range."""

    def holds(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return low <= value <= high  # of whole numbers of any length, and False for what is no number

    return Value(holds, f"a number, {low:g} … {high:g}")


def one_of(*texts: str) -> Value:
    """One of these texts."""
    return Value(lambda value: isinstance(value, str) and value in texts, f"one of {', '.join(texts)}")


def list_of(entry: Value, least: int, most: int) -> Value:
    """A list of so many entries."""
    count = f"{least}" if least == most else f"{least} … {most}"
    return Value(
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(entry.holds, value)),
        f"a list of {count} times {entry.says}",
    )


def texts(longest: int) -> Value:
    """A text of at most so many characters, all of which can be written."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= longest and can_be_written(value)

    return Value(holds, f"a text of at most {longest} characters")


def can_be_written(text: str) -> bool:
    """Whether a text is one, which half of a surrogate pair is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


FLAG = Value(lambda value: isinstance(value, bool), "true or false")

# Parts of names of keys by which some library finds code, here or on the Hub.
_CODE = (
    "attn_implementation", "auto_map", "trust_remote_code", "custom_pipeline", "custom_generate", "custom_object",
    "kernel", "quantization_config", "fusion_config", "experts_implementation", "adapter", "_name_or_path",
    "auto_class", "_module", "compile", "plugin", "code",
)  # fmt: skip
_told: set[tuple[Path, tuple[str, ...]]] = set()


def checked(
    file: Path, found: Mapping[str, Any], schema: Schema, *, again: str = "download it again"
) -> dict[str, Any]:
    """The known keys of a configuration; the others are told once.

    again: what to do about a value that cannot be.

    Raises ModelError for a value that is of another type or out of range.
    """
    for key, value in schema.values.items():
        if key in found and not value.holds(found[key]):
            raise ModelError(
                f"{file} says that {key} is {brief(found[key])}, which cannot be (it must be {value.says}); {again}."
            )
    tell_others(file, [key for key in found if key not in schema.values and key not in schema.ignored])
    return {key: found[key] for key in schema.values if key in found}


def tell_others(file: Path, keys: Collection[str]) -> None:
    """Says once that keys of a file are left out: loudly if they might have chosen code, else to those who ask."""
    code = sorted(key for key in keys if any(part in key.lower() for part in _CODE))
    others = sorted(key for key in keys if key not in code)
    for some, level, why in (
        (code, logging.WARNING, "which choose code or files elsewhere and are not obeyed"),
        (others, logging.INFO, "which dit360 does not know and leaves out"),
    ):
        if some and (file, tuple(some)) not in _told:
            _told.add((file, tuple(some)))
            log.log(level, "%s holds %s, %s.", file, _listed(some), why)


def _listed(keys: list[str]) -> str:
    names = ", ".join(repr(key)[:_SHOWN] for key in keys[:3])
    return names if len(keys) <= 3 else f"{names} and {len(keys) - 3} keys more"


def brief(value: Any) -> str:
    """A value, or the beginning of it. Numbers of thousands of digits, which Python refuses to write, too."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_SHOWN:
        return f"a number of {math.floor(value.bit_length() * math.log10(2)) + 1} digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # it holds such a number
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def name_of(value: Any) -> str:
    """A name that a file gives, as it is written; what is none as it would be shown elsewhere."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _SHOWN else brief(value)
