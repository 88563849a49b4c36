"""Defaults of a user's own, in a TOML file: what every command takes where its line says nothing else."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import typer

from dit360_core.errors import InputError
from dit360_core.options import OF_A_LINE, LoadOptions, SampleOptions, build, nearest, options_of
from dit360_core.options.usual import USUAL_LARGER

_OF_ITS_OWN = dict.fromkeys(
    ("view", "export", "import", "inspect"), frozenset(name for cls in OF_A_LINE for name in options_of(cls))
)
"""Command → options that have a picture's names there and another meaning."""
_NOT_FOR_ALL = {**_OF_ITS_OWN, "upscale": frozenset({*USUAL_LARGER, "steps", "width", "height"})}
"""Command → options for which it takes no default of all commands: it has other ones."""

CONFIG = "DIT360_CONFIG"
"""Environment variable: the file, instead of the one in the user's own folder of configurations."""


def usual_place() -> Path:
    """The file that is read unasked, if it is there."""
    told = os.environ.get(CONFIG)
    if told:
        return Path(told).expanduser()
    return Path(platformdirs.user_config_dir("dit360", appauthor=False)) / "config.toml"


def read(path: Path | None) -> tuple[Path, Mapping[str, Any]] | None:
    """The file and what it says; None: there is none.

    path: that was asked for; None: the usual place.

    Raises InputError if what was asked for is not there, and for what is no TOML.
    """
    place = usual_place() if path is None else path
    asked = path is not None or bool(os.environ.get(CONFIG))
    if not asked and not place.is_file():
        return None
    if place.exists() and not place.is_file() and str(place) != os.devnull:
        raise InputError(f"Cannot read the defaults in {place}: it is no file; name another.")
    try:
        return place, tomllib.loads(place.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # TOML's own error is a ValueError, as that of UTF-8
        why = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read the defaults in {place}: {why}; mend the file, or name another.") from error


def defaults(path: Path, told: Mapping[str, Any], commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Command → option → value, as typer takes defaults.

    told: what the file says: options for all commands that have them, and tables for one command each. They are called
    as on the command line.
    commands: name → typer's command.

    Raises InputError for a table that is no command, for an option that none of them has, and for a value that is none.
    """
    known = {name: _options(command) for name, command in commands.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in commands}
    every = {key: value for key, value in told.items() if not isinstance(value, Mapping)}
    for key, value in every.items():
        name = _name(key)
        takers = {command: names[name] for command, names in known.items() if name in names}
        if not takers:
            raise InputError(f"{path}: there is no option {key!r}; {_near(name, set().union(*known.values()))}")
        for command, option in takers.items():
            if option.name not in _NOT_FOR_ALL.get(command, ()):
                found[command][option.name] = _value(path, key, value, option, commands[command])
    for table, members in told.items():
        if not isinstance(members, Mapping):
            continue
        if table not in commands:
            raise InputError(f"{path}: there is no command {table!r}; {_near(table, set(commands))}")
        for key, value in members.items():
            name = _name(key)
            if name not in known[table]:
                raise InputError(f"{path}: dit360 {table} has no option {key!r}; {_near(name, set(known[table]))}")
            option = known[table][name]
            checked = option.name not in _OF_ITS_OWN.get(table, ())
            found[table][option.name] = _value(path, key, value, option, commands[table], checked=checked)
    return found


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
    if not all(isinstance(one, str | int | float | bool) for one in values):
        raise InputError(f"{path}: {key} is {value!r:.80}, but must be a text, a number, true or false.")
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
