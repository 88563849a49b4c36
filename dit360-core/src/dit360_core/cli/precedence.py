"""What counts on one command line: what is typed there first, then a user's own defaults where they mean something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.cli.profile import SIZES
from dit360_core.options import EditOptions, PhotoOptions, options_of

FILE = "dit360_core.cli.precedence.file"
"""Where a context keeps the file of defaults that it was given."""
_OWN_SIZES = frozenset({"view", "export", "import", "inspect"})
"""Commands whose sizes are none of a panorama, so that one of them says nothing of another."""
_EDIT, _PLACES = frozenset(options_of(EditOptions)), frozenset(options_of(PhotoOptions))


@attrs.frozen(kw_only=True)
class Taken:
    """What a command line takes of a user's own defaults.

    file: in which they stand; None: there is none.
    options: those whose values are from there.
    """

    file: Path | None = None
    options: frozenset[str] = frozenset()


def settle(command: Any, context: Any) -> Taken:
    """Gives up those defaults of a user's own that the command line speaks against, or that mean nothing beside it.

    command: whose arguments were read into the context, which is changed.
    """
    typed = _named_from(context, command, "COMMANDLINE")
    defaults = _named_from(context, command, "DEFAULT_MAP")
    needless = defaults & (_spoken_against(command.name, typed) | _meaningless(command.name, context.params))
    if needless:
        context.default_map = {n: v for n, v in context.default_map.items() if n not in needless}
        for parameter in command.params:
            if parameter.name in needless:
                del context.params[parameter.name]
                parameter.handle_parse_result(context, {}, [])
    return Taken(file=context.meta.get(FILE), options=defaults - needless)


def _named_from(context: Any, command: Any, source: str) -> frozenset[str]:
    """The parameters whose values are from there."""
    sources = {one.name: context.get_parameter_source(one.name) for one in command.params}
    return frozenset(name for name, found in sources.items() if found is not None and found.name == source)


def _spoken_against(command: str, typed: frozenset[str]) -> frozenset[str]:
    """Options of which another one that is typed says the same, or what they follow from."""
    return frozenset(SIZES) if command not in _OWN_SIZES and typed & set(SIZES) else frozenset()


def _meaningless(command: str, given: Mapping[str, Any]) -> frozenset[str]:
    """Options that say nothing of a picture that is made from what is given; a batch knows it of each line itself."""
    found: set[str] = set()
    if command == "generate":
        if not given["photo"]:
            found |= _PLACES
        if given["image"] is None:
            found.add("region")
            if not given["photo"]:
                found |= _EDIT | {"denoise"}
        if given["mask"] is None:
            found.add("mask_means")
    elif command == "upscale":
        if given["mask"] is None:
            found.add("mask_means")
            if given["region"] is None:
                found |= _EDIT
    elif command == "plan" and not given["with_photo"]:
        found.add("denoise")  # of a picture that is made from its prompt alone, as generate makes it
    return frozenset(found)
