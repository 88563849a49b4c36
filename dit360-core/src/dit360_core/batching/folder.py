"""The folder that a batch fills: which pictures are done, who may write, and the manifest.

A picture is done if its file is there and says so itself: it takes its name only when it is whole, and holds the
fingerprint of what was asked. The manifest is made from that, for people and programs; losing it loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from dit360_core.batching.items import Item
from dit360_core.errors import Dit360Error, InputError, named
from dit360_core.panorama.picture import saved_settings
from dit360_core.system.atomic import PART, check_name, names_beside, write_atomic, write_whole

MANIFEST = "manifest.jsonl"
LOCK = ".dit360-batch.lock"
STALE = 60.0
"""Seconds after which a half-written file can only be that of a process that was killed: writing takes no such time."""

LOOKING = 2.0
"""Seconds after which a lock that is only looked at by others would be free."""


class Folder:
    """Where the pictures of a list go."""

    def __init__(self, path: Path, shard: tuple[int, int] = (1, 1)) -> None:
        """shard: (number, of how many) parts of the list, each of which has a manifest of its own."""
        self.path = path
        self._of = shard[1]
        self._part = "" if shard == (1, 1) else f"-{shard[0]}-of-{shard[1]}"
        self._is: tuple[int, int] | None = None

    def check(self) -> None:
        """Raises InputError unless it is a folder, or can become one."""
        check_name(self.path)
        # os.path rather than pathlib, which raises of what may not be looked at.
        there = os.path.isdir(self.path)
        if os.path.exists(self.path) and not there:
            raise InputError(f"Cannot write into {self.path}: it is a file; name a folder.")
        if not there and not os.path.isdir(self.path.parent):
            if (shut := _shut(self.path)) is not None:
                raise InputError(f"Cannot make {self.path}: no permission to look into {shut}; choose another folder.")
            raise InputError(
                f"Cannot make {self.path}: the folder {self.path.parent} does not exist; create it or choose another."
            )
        within = self.path if there else self.path.parent
        # Locks of other batches are looked for in the folder itself.
        if not os.access(within, os.R_OK | os.X_OK if there else os.X_OK):
            raise InputError(
                f"Cannot write into {self.path}: no permission to look into {within}; choose another folder."
            )
        if not _is_ours(self.manifest):
            raise InputError(
                f"{self.manifest} is there already and is not that of a batch; choose another folder, or move it."
            )

    def check_writable(self, items: Iterable[Item]) -> None:
        """Raises InputError where pictures cannot be written. Nothing is made.

        items: that are to be made, some in folders below.
        """
        below = dict.fromkeys(name for item in items for name in PurePosixPath(item.name).parents if name.name)
        there = [self.path / name for name in below if os.path.isdir(self.path / name)]
        for folder in (self.path if os.path.isdir(self.path) else self.path.parent, *there):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise InputError(
                    f"Cannot write into {self.path}: no permission to write in {folder}; choose another folder."
                )

    def sort(self, items: Iterable[Item], *, force: bool) -> tuple[dict[str, Mapping[str, Any]], list[Item]]:
        """(settings of those that are done, by their names; those that are to be made).

        Raises InputError if a name is that of another file, which ``force`` would replace.
        """
        done: dict[str, Mapping[str, Any]] = {}
        missing: list[Item] = []
        for item in items:
            path = self.path / item.name
            if os.path.lexists(path) and not os.path.isfile(path):
                raise InputError(f"{path}, of line {item.line}, is there and is no file; choose another name.")
            # An empty one is no picture of anybody: file systems without links are reserved a name by it.
            if not os.path.isfile(path) or not os.path.getsize(path):
                missing.append(item)
                continue
            settings = saved_settings(path)
            if key_in(settings) == item.key:
                done[item.name] = settings
            elif force:
                missing.append(item)
            else:
                raise InputError(
                    f"{path} is there already and is another picture than line {item.line} asks for, or damaged; "
                    f"choose another name or folder, or replace it ({named('force')})."
                )
        return done, missing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes a batch here meanwhile. The folder is made. Raises InputError if somebody does."""
        self.check()
        made = not self.path.is_dir()
        try:
            self.path.mkdir(exist_ok=True)
            lock = FileLock(self.path / self._lock)
            lock.acquire(blocking=False)
            self._look_at_other_locks(lock)
        except Timeout as error:
            raise InputError(
                f"Another batch is writing into {self.path} at this moment; wait for it, or choose another folder."
            ) from error
        except OSError as error:
            raise InputError(f"Cannot write into {self.path}: {error.strerror or error}; choose another.") from error
        self._is = _identity(self.path)
        try:
            self._tidy()
            yield
        finally:
            with contextlib.suppress(OSError):  # of a folder that went away another error tells
                lock.release()
                # A folder in which nothing came to be is not left behind.
                ours = made and _identity(self.path) == self._is
                if ours and {path.name for path in self.path.iterdir()} <= {self._lock, self.manifest.name}:
                    for name in (self._lock, self.manifest.name):
                        (self.path / name).unlink(missing_ok=True)
                    self.path.rmdir()

    def _look_at_other_locks(self, own: FileLock) -> None:
        """Raises Timeout, and lets go of the own lock, if another batch holds one: all but the other parts of a list.

        Each takes its own lock first and then looks, so that of two that begin together one goes on, or none does.
        """
        beside = re.compile(rf"{re.escape(LOCK.removesuffix('.lock'))}-\d+-of-{self._of}\.lock") if self._part else None
        try:
            for path in self.path.glob(LOCK.replace(".lock", "*.lock")):
                if path.name != self._lock and not (beside is not None and beside.fullmatch(path.name)):
                    # Others of this list may be looking, too.
                    try:
                        with FileLock(path, timeout=LOOKING):
                            pass
                    except PermissionError as error:
                        raise InputError(
                            f"Whether another batch writes into {self.path} cannot be seen, because {path} belongs to "
                            "somebody else; delete that file if none does."
                        ) from error
        except BaseException:
            own.release()
            raise

    def check_still_there(self) -> None:
        """Raises Dit360Error if the folder is gone, or another has its name: a drive that dropped leaves one."""
        if self._is is not None and _identity(self.path) != self._is:
            raise Dit360Error(
                f"The folder {self.path} went away while pictures were made; bring it back, and the same command "
                "goes on."
            )

    def write(self, name: str, data: bytes, *, force: bool, beside: bool = False) -> Path:
        """A picture under its name, whole or not at all; returns where.

        beside: under the first free name like it.

        Raises NameTaken if another program has that name by now, Dit360Error if writing fails, as on a full disk.
        """
        self.check_still_there()
        path = self.path / name
        if beside:
            path = next(name for name in names_beside(path, path.suffix) if not os.path.lexists(name))
        force = force or (path.is_file() and not path.stat().st_size)
        try:
            # Not the folder itself: it would be made anew where a drive was.
            for parent in reversed(path.relative_to(self.path).parents):
                if parent.name:
                    (self.path / parent).mkdir(exist_ok=True)
        except OSError as error:
            raise Dit360Error(
                f"Cannot make {path.parent}: {error.strerror or error}; choose another folder."
            ) from error
        write_whole(data, path, force=force)
        return path

    def _tidy(self) -> None:
        """Removes what a killed process had half written, here and in folders below."""
        for part in self.path.rglob(PART.format("*")):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > STALE:
                    part.unlink()

    # ------------------------------------------------------------------------------------------------------- manifest

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST.replace(".", f"{self._part}.", 1)

    @property
    def _lock(self) -> str:
        return LOCK.replace(".lock", f"{self._part}.lock")

    def entries(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of each file. Of two lines of one file the later counts; a torn one is passed over."""
        found: dict[str, dict[str, Any]] = {}
        try:
            text = self.manifest.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return {}
        for line in text.split("\n"):
            if (entry := _entry(line)) is not None:
                found[entry["file"]] = entry
        return found

    def tell(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to the manifest, for whoever follows it while pictures are made."""
        self.check_still_there()
        try:
            with self.manifest.open("ab") as file:
                file.write(_line(entry))
        except OSError as error:
            raise Dit360Error(
                f"Cannot write {self.manifest}: {error.strerror or error}; see that there is space."
            ) from error

    def rewrite(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Writes the manifest anew, in one step."""
        self.check_still_there()
        with write_atomic(self.manifest, force=True) as file:
            for entry in entries:
                file.write(_line(entry))


def key_in(settings: Mapping[str, Any]) -> str | None:
    """The fingerprint of the item that a saved picture was made for, if it was one of a batch's."""
    told = settings.get("batch")
    return told.get("key") if isinstance(told, dict) else None


def _entry(line: str) -> dict[str, Any] | None:
    """What a line of a manifest says, if it is one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("file", "key", "status")):
        return None
    return {name: value for name, value in entry.items() if _is_sound(name, value)}


_WHOLE = ("line", "seed", "bytes", "width", "height")


def _is_sound(name: str, value: Any) -> bool:
    """Whether a value of a manifest's line can be what this wrote: others may have edited it."""
    if name in _WHOLE:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64
    if name == "seconds":
        return isinstance(value, int | float) and 0 <= value < 10**9
    return isinstance(value, str)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _shut(path: Path) -> Path | None:
    """The first folder on the way to a file that may not be looked into, if that is what hides it."""
    for parent in reversed(path.parents):
        if not os.path.isdir(parent):
            return None
        if not os.access(parent, os.X_OK):
            return parent
    return None


def _is_ours(manifest: Path) -> bool:
    """Whether a file may be taken for a manifest of a batch and written anew. Its last line may be torn."""
    if not os.path.exists(manifest):
        return True
    try:
        lines = [line for line in manifest.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError):
        return False
    return all(_entry(line) is not None for line in lines[:-1]) and (
        not lines or _entry(lines[-1]) is not None or (len(lines) > 1 and lines[-1].startswith('{"file": "'))
    )


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
