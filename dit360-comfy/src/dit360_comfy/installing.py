"""Puts the node pack into a ComfyUI's ``custom_nodes`` and takes it out; never touches what it did not put there.

The pack is a folder of this package. A link to it is enough for ComfyUI, and an upgraded package is an upgraded pack;
where the file system has no links, a copy with a record of its files takes the place of the link.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import secrets
import shutil
import stat
import tomllib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal

import attrs
from dit360_core.errors import InputError

NAME = "dit360-comfy"
"""Of the distribution, of the pack in ComfyUI's registry, and of its folder in ``custom_nodes``."""

PACK = Path(__file__).parent / "node_pack"

RECORD = ".dit360-comfy.json"
"""In a copy: names each of its files, with its SHA-256."""

_PRIVILEGE_NOT_HELD = 1314  # Windows' error for a symbolic link without administrator or developer mode


# --------------------------------------------------------------------------------------------------- finding ComfyUI


@attrs.frozen
class Comfy:
    """A ComfyUI.

    root: the folder that holds custom_nodes.
    program: that of main.py; None for a base directory.
    """

    root: Path
    program: Path | None

    @property
    def custom_nodes(self) -> Path:
        return self.root / "custom_nodes"

    @property
    def place(self) -> Path:
        """Where the pack belongs, whether it is there or not."""
        return self.custom_nodes / NAME


def locate(given: Path | None, here: Path) -> Comfy:
    """The ComfyUI that a folder is or contains; ``here``, the current folder, where none is given.

    Taken are a checkout (main.py, comfy, custom_nodes), the portable folder around one, and a base directory as of
    ComfyUI Desktop and ``--base-directory`` (custom_nodes, models, and user or output).
    Raises InputError if it is none of them.
    """
    folder = Path(os.path.abspath(Path(given).expanduser() if given else here))
    for candidate in (folder, folder / "ComfyUI"):
        if _has(candidate, "main.py", "comfy", "custom_nodes"):
            return Comfy(candidate, candidate)
    if _has(folder, "custom_nodes", "models") and (_has(folder, "user") or _has(folder, "output")):
        return Comfy(folder, None)
    if given is None:
        raise InputError("No ComfyUI was named and the current folder is none; add --comfyui DIR or set COMFYUI_DIR.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the one in which ComfyUI is.")
    if _has(folder.parent, "main.py", "comfy"):
        raise InputError(f"{folder} is a folder of ComfyUI; give the one above it, {folder.parent}.")
    raise InputError(
        f"{folder} is no ComfyUI: it holds neither main.py, comfy and custom_nodes, nor a folder ComfyUI with them, "
        "nor, as a base directory does, custom_nodes, models and one of user and output; give the one that does."
    )


def _has(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


# ------------------------------------------------------------------------------------------------- what is there now


@attrs.frozen
class Found:
    """What has the pack's place in custom_nodes.

    kind: nothing · link (to this package's pack) · elsewhere (link to the pack of another environment) · dead (link to
    a pack that is gone) · copy (ours) · foreign (anything else, which is left alone).
    what: in words.
    """

    kind: Literal["nothing", "link", "elsewhere", "dead", "copy", "foreign"]
    what: str = ""


def look(place: Path) -> Found:
    """Says what is at the pack's place, without following it anywhere but to a pack."""
    if not os.path.lexists(place):
        return Found("nothing")
    if _is_link(place):
        target = _target(place)
        if target.exists() and target.resolve() == PACK.resolve():
            return Found("link", f"a link to {target}")
        if target.parts[-2:] != (PACK.parent.name, PACK.name):
            return Found("foreign", f"a link to {target}")
        return Found("elsewhere" if target.exists() else "dead", f"a link to {target}")
    if not place.is_dir():
        return Found("foreign", "a file")
    if not _is_pack(place):
        return Found("foreign", "a folder of something else")
    if recorded(place) is None:
        return Found("foreign", "a copy of these nodes that ComfyUI-Manager or somebody put there")
    return Found("copy", "a copy")


def _is_link(path: Path) -> bool:
    status = os.lstat(path)
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", 0xA0000003)
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == junction


def _target(link: Path) -> Path:
    # Windows puts a prefix before the path that people do not know.
    return link.parent / os.readlink(link).removeprefix("\\\\?\\")


def version_of(pack: Path) -> str | None:
    """The version that a pack's pyproject.toml states; None if it states none."""
    version = _project(pack).get("version")
    return version if isinstance(version, str) else None


def _is_pack(folder: Path) -> bool:
    return _project(folder).get("name") == NAME


def _project(folder: Path) -> Mapping[str, Any]:
    try:
        with (folder / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file).get("project", {})
    except (OSError, ValueError):
        return {}
    return project if isinstance(project, dict) else {}


def others(comfy: Comfy) -> list[str]:
    """One sentence for each other folder in custom_nodes that also brings these nodes, or would fail to."""
    said = []
    for folder in _folders(comfy.custom_nodes):
        if folder.name == NAME or folder.name.endswith(".disabled"):  # ComfyUI passes over the latter
            continue
        if _is_pack(folder) or "dit360_comfy" in _text(folder / "__init__.py"):
            said.append(f"{folder} brings the same nodes, which would be loaded twice; remove one of the two.")
        elif _is_pack(folder / NAME):
            said.append(
                f"{folder} is a clone of the whole project, from which ComfyUI can load no nodes; move it elsewhere."
            )
    return said


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------ putting and taking


def install(comfy: Comfy, *, copy: bool = False) -> str:
    """Puts the pack into custom_nodes, or brings what is there up to date; says in a sentence what was done.

    copy: copies the files instead of linking their folder. A copy of ours that is there is kept a copy.

    Raises InputError if something else has the name, if a copy's files were changed, or if nothing can be written.
    """
    place = comfy.place
    found = look(place)
    if found.kind == "foreign":
        raise InputError(f"{place} is {found.what}, which is left as it is; remove or rename it, then install again.")
    if found.kind == "copy":
        return _refresh(place)
    if found.kind == "link" and not copy:
        return f"The nodes are in {place} already: {found.what}."
    with _told(place):
        if found.kind != "nothing":
            os.unlink(place)
        if copy:
            _copy(place)
        else:
            _link(place)
    before = f" It was {found.what}." if found.kind in ("elsewhere", "dead") else ""
    if copy:
        return f"Copied the nodes to {place}. After an upgrade of {NAME}, install them again.{before}"
    return f"Linked {place} to {PACK}.{before}"


def uninstall(comfy: Comfy) -> str:
    """Takes the pack out of custom_nodes and says what was done. Of a copy, files that are not as they came stay.

    Raises InputError if what has the name was not put there by us, or cannot be removed.
    """
    place = comfy.place
    found = look(place)
    if found.kind == "nothing":
        return f"The nodes are not in {comfy.custom_nodes}; there is nothing to remove."
    if found.kind == "foreign":
        raise InputError(f"{place} is {found.what}, not put there by this command; remove it in the way that it came.")
    with _told(place):
        if found.kind != "copy":
            os.unlink(place)
            return f"Removed {place}, {found.what}."
        left = _remove_copy(place)
    if left:
        return f"Removed the nodes. Left in {place}, since added or changed by somebody: {', '.join(left)}."
    return f"Removed {place}, a copy."


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Turns what a file system says into one sentence of ours."""
    try:
        yield
    except OSError as error:
        said = error.strerror or error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise InputError(
                f"Cannot write in {place.parent}: {said}; run this as whoever installed ComfyUI, or allow yourself to."
            ) from error
        raise InputError(f"Cannot change {place}: {said}; put that right and try again.") from error


def _link(place: Path) -> None:
    try:
        try:
            os.symlink(PACK, place, target_is_directory=True)
        except OSError as error:
            if getattr(error, "winerror", None) != _PRIVILEGE_NOT_HELD:
                raise
            # A junction needs no privilege and does the same for a folder. By name: the module is Windows' own.
            importlib.import_module("_winapi").CreateJunction(str(PACK), str(place))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            raise
        raise InputError(
            f"Cannot make a link in {place.parent}: {error.strerror or error}; add --copy to copy the nodes."
        ) from error


# ------------------------------------------------------------------------------------------------------------ copies


def recorded(place: Path) -> dict[str, str] | None:
    """File → SHA-256 of a copy as it was made; None if the folder is no copy of ours."""
    try:
        files = json.loads((place / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(files, dict) or any(Path(name).anchor or ".." in Path(name).parts for name in files):
        return None
    return {str(name): str(digest) for name, digest in files.items()}


def is_stale(place: Path) -> bool:
    """Whether a copy of ours is of another version of the pack, or differs from it in a file."""
    return version_of(place) != version_of(PACK) or recorded(place) != _digests(PACK)


def _copy(place: Path) -> None:
    # ComfyUI passes over folders of this ending, should this be cut off before the folder has its name.
    part = place.parent / f".dit360-{secrets.token_hex(8)}.disabled"
    try:
        part.mkdir()
        _write(part)
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _refresh(place: Path) -> str:
    """Makes a copy of ours equal to the pack. Raises InputError if somebody changed a file of it."""
    if not is_stale(place) and not _missing(place):
        return f"The nodes are in {place} already: a copy of version {version_of(place)}."
    before = recorded(place) or {}
    after = _digests(PACK)
    # A file that is as the new version has it was written by an update that was cut off.
    changed = _changed(place, {**after, **before}, after)
    if changed:
        raise InputError(
            f"Somebody changed or added {', '.join(changed)} in {place}, so it is not brought up to date; "
            "move your changes elsewhere, remove the folder, then install again."
        )
    was = version_of(place)
    with _told(place):
        _write(place)
        _remove(place, before.keys() - after.keys())
    return f"Brought the copy in {place} from version {was} to {version_of(PACK)}."


def _write(folder: Path) -> None:
    files = _digests(PACK)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK / name, folder / name)
    (folder / RECORD).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")


def _remove_copy(place: Path) -> list[str]:
    """Removes what was installed and is as it was; returns the files that stay."""
    files = recorded(place) or {}
    _remove(place, files.keys() - set(_changed(place, files)))
    (place / RECORD).unlink()
    shutil.rmtree(place / "__pycache__", ignore_errors=True)  # what Python compiled from __init__.py
    there = (path for path in place.rglob("*") if _is_link(path) or not path.is_dir())
    left = sorted(path.relative_to(place).as_posix() for path in there)
    if not left:
        _remove_empty(place)
    return left


def _remove(folder: Path, names: AbstractSet[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for path in sorted({folder / parent for name in names for parent in Path(name).parents}, reverse=True):
        if path != folder and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


def _missing(place: Path) -> list[str]:
    return [name for name in recorded(place) or {} if not (place / name).exists()]


def _changed(place: Path, files: Mapping[str, str], otherwise: Mapping[str, str] | None = None) -> list[str]:
    """The files that are there, but neither with the one digest nor with the other."""
    allowed = {name: {digest, (otherwise or {}).get(name), ""} for name, digest in files.items()}
    return [name for name in files if _digest(place / name) not in allowed[name]]


def _digests(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    """SHA-256 in hexadecimal; empty if there is nothing of that name."""
    if not os.path.lexists(path):
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "none"  # a folder, say: equal to no file's
