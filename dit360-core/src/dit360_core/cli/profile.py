"""Defaults of a user's own, in a TOML file: what every command takes where its line says nothing else."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import typer

from dit360_core.errors import InputError
from dit360_core.options import OF_A_LINE, LoadOptions, SampleOptions, build, check_size, nearest, options_of
from dit360_core.options.usual import USUAL_LARGER

_OF_ITS_OWN = dict.fromkeys(
    ("view", "export", "import", "inspect"), frozenset(name for cls in OF_A_LINE for name in options_of(cls))
)
"""Command → options that have a picture's names there and another meaning."""
_NOT_FOR_ALL = {**_OF_ITS_OWN, "upscale": frozenset({*USUAL_LARGER, "steps", "width", "height"})}
"""Command → options for which it takes no default of all commands: it has other ones."""

CONFIG = "DIT360_CONFIG"
"""Environment variable: the file, instead of the one in the user's own folder of configurations."""
SIZES = ("size", "width", "height")
"""Options of which one says what the others follow from."""
_LARGEST = 256
"""Bits of a whole number: no option takes one that is longer, and Python writes none of over 4300 digits."""


class NotAsked(InputError):
    """A file that nobody asked for cannot be read: whoever has none of their own is told, and goes on without."""


def usual_place() -> Path:
    """The file that is read unasked, if it is there. Raises InputError if it is to be in the home of nobody."""
    told = os.environ.get(CONFIG)
    if told:
        try:
            return Path(told).expanduser()
        except RuntimeError as error:
            raise InputError(
                f"Cannot read the defaults in {told}, which {CONFIG} names: there is no such home; name another."
            ) from error
    return Path(platformdirs.user_config_dir("dit360", appauthor=False)) / "config.toml"


def read(path: Path | None) -> tuple[Path, Mapping[str, Any]] | None:
    """The file and what it says; None: there is none.

    path: that was asked for; None: the usual place.

    Raises InputError if what was asked for is not there, and for what is no TOML; NotAsked if the system does not let
    the usual one be read.
    """
    place = usual_place() if path is None else path
    asked = path is not None or bool(os.environ.get(CONFIG))
    try:
        text = _text(place, asked)
    except OSError as error:
        why = error.strerror or error
        if asked:
            raise _unreadable(place, why) from error
        raise NotAsked(
            f"The defaults in {place} cannot be read ({why}), and none are used; make the file readable, or name "
            f"another with {CONFIG}."
        ) from error
    except UnicodeDecodeError as error:
        raise _unreadable(place, error) from error
    return None if text is None else (place, _parsed(place, text))


def _parsed(place: Path, text: str) -> Mapping[str, Any]:
    """What a file says. Raises InputError for what is no TOML, or cannot be taken in."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(place, error) from error
    except RecursionError as error:
        raise _unreadable(place, "it is nested too deeply") from error
    except ValueError as error:  # Python reads no number of over 4300 digits
        raise _unreadable(place, "a number in it is too long") from error


def _text(place: Path, asked: bool) -> str | None:
    """What stands in a file; None: there is none, and nobody asked for it. Raises OSError or InputError."""
    try:
        kind = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if asked:
            raise
        return None
    if not stat.S_ISREG(kind) and str(place) != os.devnull:  # a pipe would be waited for
        if asked:
            raise InputError(f"Cannot read the defaults in {place}: it is no file; name another.")
        return None
    return place.read_text(encoding="utf-8-sig")


def _unreadable(place: Path, why: object) -> InputError:
    return InputError(f"Cannot read the defaults in {place}: {why}; mend the file, or name another.")


def defaults(path: Path, told: Mapping[str, Any], commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Command → option → value, as typer takes defaults.

    told: what the file says: options for all commands that have them, and tables for one command each. They are called
    as on the command line.
    commands: name → typer's command.

    Raises InputError for a table that is no command, for an option that none of them has, and for a value that is none.
    """
    known = {name: _options(command) for name, command in commands.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in commands}
    said: dict[tuple[str, str], str] = {}
    every = {key: value for key, value in told.items() if not isinstance(value, Mapping)}
    for key, value in every.items():
        name = _name(key)
        takers = {command: names[name] for command, names in known.items() if name in names}
        if not takers:
            raise InputError(f"{path}: there is no option {key!r}; {_near(name, set().union(*known.values()))}")
        for command, option in takers.items():
            _check_once(path, said, command, option, key)
            if option.name not in _NOT_FOR_ALL.get(command, ()):
                found[command][option.name] = _value(path, key, value, option, commands[command])
    for table, members in told.items():
        if not isinstance(members, Mapping):
            continue
        if table not in commands:
            raise InputError(f"{path}: there is no command {table!r}; {_near(table, set(commands))}")
        if any(_name(key) in SIZES for key in members):  # a command's own size counts before that of all
            found[table] = {name: value for name, value in found[table].items() if name not in SIZES}
        said.clear()
        for key, value in members.items():
            name = _name(key)
            if name not in known[table]:
                raise InputError(f"{path}: dit360 {table} has no option {key!r}; {_near(name, set(known[table]))}")
            option = known[table][name]
            _check_once(path, said, table, option, key)
            checked = option.name not in _OF_ITS_OWN.get(table, ())
            found[table][option.name] = _value(path, key, value, option, commands[table], checked=checked)
    for command, values in found.items():
        _check_sizes(path, command, values)
    return found


def _check_once(path: Path, said: dict[tuple[str, str], str], command: str, option: Any, key: str) -> None:
    """Raises InputError if an option of a command stands there in another spelling, of which one would be lost.

    said: (command, option) → how it was spelled, to which this one is added.
    """
    if (before := said.setdefault((command, option.name), key)) != key:
        raise InputError(f"{path}: {before} and {key} are one option; leave one out.")


def _check_sizes(path: Path, command: str, values: Mapping[str, Any]) -> None:
    """Raises InputError for a width and a height that no panorama has, or that are said twice."""
    if command in _OF_ITS_OWN:
        return
    width, height = values.get("width"), values.get("height")
    if values.get("size") is not None and (width, height) != (None, None):
        raise InputError(f"{path}: size and {'height' if width is None else 'width'} say the same; leave one out.")
    try:
        check_size(width, height)
    except InputError as error:
        raise InputError(f"{path}: {error.sentence}") from error


def _options(command: Any) -> dict[str, Any]:
    """What an option may be called → it: as on the command line, or as in Python."""
    found: dict[str, Any] = {}
    for one in command.params:
        if one.param_type_name == "option":
            found |= {
                _name(called): one for called in (*one.opts, one.name) if called.startswith("--") or called == one.name
            }
    return found


def _name(key: str) -> str:
    return key.lstrip("-").replace("-", "_")


def _near(name: str, known: set[str]) -> str:
    return nearest(difflib.get_close_matches(name, sorted(known), n=3))


def _value(path: Path, key: str, value: Any, option: Any, command: Any, *, checked: bool = True) -> Any:
    """A value as an option takes it: a list, if it may be given several times.

    command: whose option it is.
    checked: as the option of that name of a picture or a model, and not by the command alone.
    """
    several = getattr(option, "multiple", False)
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not several:
        raise InputError(f"{path}: {key} is a list, and takes one value.")
    if any(isinstance(one, int) and one.bit_length() > _LARGEST for one in values):
        raise InputError(f"{path}: {key} is a number of too many digits; write a smaller one.")
    if not all(isinstance(one, str | int | float | bool) for one in values):
        raise InputError(f"{path}: {key} is {_shown(value)}, but must be a text, a number, true or false.")
    for cls in (LoadOptions, *OF_A_LINE) if checked else ():
        if option.name in options_of(cls):
            try:
                build(cls, {**({"prompt": "any"} if cls is SampleOptions else {}), option.name: value})
            except InputError as error:
                raise InputError(f"{path}: {error.sentence}") from error
            break
    else:
        try:
            option.process_value(typer.Context(command), values if several else value)
        except typer.BadParameter as error:
            why = error.message.replace(" for <class 'pathlib.Path'>", "").rstrip(".")
            raise InputError(f"{path}: {key} is {value!r:.80}: {why}.") from error
        except (TypeError, AttributeError) as error:  # of older versions of typer, for numbers where a text must be
            raise InputError(f"{path}: {key} is {value!r:.80}, which it does not take.") from error
    return values if several else value


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # numbers of thousands of digits are in it
        return "something with too long a number"
