"""Checks one value of an option, whatever the others are, and says in a sentence what is wrong with it."""

from __future__ import annotations

import math
import re
from typing import Any

import attrs

from dit360_core.errors import InputError, named, remedy
from dit360_core.options import aliases
from dit360_core.options.facts import Option

_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


def check(option: Option, value: Any) -> None:
    """Looks at one value by itself.

    option: what is known of it.
    value: as it was given and converted.

    Raises InputError, which names the option, for None where that is not allowed, a wrong type, a text that is too long
    or none of the choices, and a number that is not finite, out of its range or no multiple of its step.
    """
    if value is None:
        if option.optional:
            return
        known = (
            "" if option.default is attrs.NOTHING else f"; {remedy('leave_out')} for its default, {option.default!r}"
        )
        raise InputError(f"{named(option.name)} must not be None{known}.")
    kind = option.kind
    if kind is tuple:
        if not isinstance(value, tuple) or not all(isinstance(text, str) and text.strip() for text in value):
            pairs = ", or of pairs of a file and a strength" if option.name == "lora" else ""
            raise InputError(
                f"{named(option.name)} must be text, or a list of texts that are not empty{pairs}, not "
                f"{_in_short(value):.80}."
            )
        return
    # bool is an int in Python, but nobody who writes steps=True means one step.
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right:
        hint = decimal_hint(value) if kind is float else ""
        raise InputError(f"{named(option.name)} must be {_KIND_NAMES[kind]}, not {_in_short(value)}{hint}.")
    if option.longest is not None and len(value) > option.longest:
        raise InputError(
            f"{named(option.name)} has {len(value)} characters, but may have {option.longest}; shorten it."
        )
    if kind is float and not is_finite(value):
        raise InputError(f"{named(option.name)} must be a finite number, not {_in_short(value)}.")
    if option.choices and value not in option.choices:
        near = aliases.near(option.named or "", value, option.choices)
        more = f"; {near.rstrip('?.')}" if near else ""
        raise InputError(
            f"{named(option.name)} is {value!r}, but must be one of: {', '.join(option.choices)}{more}"
            f"{'?' if near.endswith('?') else '.'}"
        )
    low, high = option.minimum, option.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        reach = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} … {high}"
        shown = _in_short(value) if isinstance(value, int) else value
        raise InputError(f"{named(option.name)} is {shown}, but must be {reach}.")
    if option.step > 1 and value > 0 and value % option.step:
        near = max(option.step, round(value / option.step) * option.step)
        raise InputError(f"{named(option.name)} is {value}, but must be a multiple of {option.step}; take {near}.")


def decimal_hint(value: object) -> str:
    """The tail of a sentence about what is no number: for one that has a decimal comma, how it is written here."""
    number = r"\s*[+-]?(\d{0,15}|\d{1,3}([. \u00a0\u202f']\d{3}){1,4}),\d{1,15}\s*"
    if not isinstance(value, str) or not re.fullmatch(number, value):
        return ""
    return f"; write it with a decimal point: {re.sub('[^0-9,+-]', '', value).replace(',', '.')}"


def is_finite(value: float) -> bool:
    """Whether a float can hold it.

    value: a number of any size.
    """
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of over 308 digits
        return False


def _in_short(value: object) -> str:
    """A number as a sentence may quote it. Python writes no number of over 4300 digits."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {'about ' if value.bit_length() > 10**4 else ''}{_digits(abs(value))} digits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} of such numbers"


def _digits(value: int) -> int:
    if value.bit_length() > 10**4:
        return int(value.bit_length() * math.log10(2)) + 1
    return len(str(value))
