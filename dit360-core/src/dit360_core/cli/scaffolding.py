"""Writes a plugin's project from the files in ``templates``: offer, implementation, conformance test, README.

What the project says of its kind in words stands in ``templates/<kind>/about.toml``. In the names and texts of files
``PACKAGE`` and ``${…}`` are replaced; the ending ``.txt`` keeps tools from taking them for code before.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import attrs
from packaging.utils import canonicalize_name
from packaging.version import Version

from dit360_core.errors import InputError, UnknownName
from dit360_core.plugins.entries import CORE
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.offers import PLUGIN_API, Offer
from dit360_core.plugins.registry import Registry, noun
from dit360_core.system.atomic import new_folder
from dit360_core.system.installed import installed_version

_LONGEST = 60
"""Of a name, so that the folder of the project can be called by it anywhere."""


@attrs.frozen
class Project:
    """The files of a plugin's project.

    distribution, package: its names for pip and for Python.
    files: their path in the project → their text.
    """

    distribution: str
    package: str
    files: Mapping[str, str]


def plugin_project(kind: str, name: str, registry: Registry) -> Project:
    """The project of a plugin that offers ``name``. Nothing is written.

    A project is called ``attn-NAME-for-dit360``, its package ``attn_NAME_for_dit360``: ``dit360-attn-…`` would look
    like one of ours, two plugins of different kinds may have one name, and no word of Python's and no module of its
    library is called so, whatever the name.

    Raises InputError for an unknown kind and for a name that offers cannot have or that somebody has already.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(KINDS)}."
        raise InputError(f"There is no kind of plugin named {kind!r}; {hint}")
    _check_name(kind, name, registry)
    folder = resources.files("dit360_core") / "cli" / "templates"
    about = tomllib.loads((folder / kind / "about.toml").read_text(encoding="utf-8"))
    distribution = canonicalize_name(f"{about['prefix']}-{name}-for-dit360")
    if installed_version(distribution) is not None:
        raise InputError(f"{distribution}, as this would be called, is installed already; choose another name.")
    package = distribution.replace("-", "_")
    words = {"name": name, "distribution": distribution, "package": package, "core": _needed_core()}
    words |= {key: Template(text).substitute(words).strip() for key, text in about.items()}
    return Project(
        distribution,
        package,
        {
            path.removesuffix(".txt").replace("PACKAGE", package): Template(text).substitute(words)
            for part in ("common", kind)
            for path, text in _files(folder / part)
            if path != "about.toml"
        },
    )


def write_project(project: Project, target: Path) -> None:
    """Writes a project into a new folder, as :func:`dit360_core.system.atomic.new_folder` does."""
    with new_folder(target) as folder:
        for path, text in project.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")


def _check_name(kind: str, name: str, registry: Registry) -> None:
    try:
        Offer(name=name, api=PLUGIN_API)
    except ValueError as error:
        plain = re.sub("[^a-z0-9_.-]+", "-", name.lower()).strip("_.-")
        hint = f"take {plain}" if plain else "choose another"
        raise InputError(
            f"The name {name!r} cannot be used: a name begins with a small letter or a digit, and more of these, '_', "
            f"'.' and '-' may follow; {hint}."
        ) from error
    if len(name) > _LONGEST:
        raise InputError(f"The name {name[:20]}… has {len(name)} signs; take {_LONGEST} at most.")
    if name == "auto":
        raise InputError("The name 'auto' cannot be used, because it leaves the choice to dit360; choose another.")
    try:
        owner = registry.find(kind, name)[0]
    except UnknownName:
        return
    who = owner.distribution if owner.distribution == CORE else f"{owner.distribution} {owner.version}"
    raise InputError(f"The {noun(kind)} {name!r} exists already, in {who}; choose another name.")


def _needed_core() -> str:
    """The requirement of a plugin that was written now: the contract changes with a major version at most."""
    found = Version(installed_version(CORE) or "0.1")
    oldest = str(found) if found.is_prerelease else f"{found.major}.{found.minor}"
    return f"{CORE}>={oldest},<{found.major + 1}"


def _files(folder: Traversable, inside: str = "") -> Iterator[tuple[str, str]]:
    """Path in the folder and text of every file in it."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{inside}{item.name}"
        if item.is_dir():
            yield from _files(item, f"{path}/")
        else:
            yield path, item.read_text(encoding="utf-8")
