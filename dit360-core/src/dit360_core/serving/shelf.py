"""The server's folder: pictures that were made, and requests that wait, which outlive a process that is killed."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from filelock import FileLock, Timeout

from dit360_core.errors import InputError, named
from dit360_core.panorama.formats import FORMATS
from dit360_core.panorama.picture import saved_settings
from dit360_core.serving.wanted import Wanted, wanted_of
from dit360_core.system.atomic import NameTaken, names_beside, write_atomic, write_whole
from dit360_core.system.naming import slug_of

log = logging.getLogger("dit360")

WAITING = ".dit360-waiting"
"""Folder of requests that are not done, within that of pictures."""
LOCK = ".dit360-serve.lock"
MOST_BEGUN = 5
"""How often a request is begun whose server ends before it is done."""
_MODEL = "model"
"""In the file of a request: what it is asked of."""
_SHOWN = 500
"""Pictures that the page is told of, the newest."""


@attrs.frozen(kw_only=True)
class Kept:
    """A picture in the folder, by the name under which a client may ask for it.

    settings: from its metadata.
    """

    name: str
    changed: float
    settings: Mapping[str, Any]


class Shelf:
    """A folder of pictures. No name of a client's is ever joined to a path: pictures are looked up in a list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[float, Kept]] = {}

    def check(self) -> None:
        """Raises InputError if nothing can be written there."""
        try:
            (self.folder / WAITING).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {self.folder} cannot be made ({error.strerror or error}); choose another."
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other server works here meanwhile: both would make what waits. Raises InputError if one does."""
        self.check()
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"Another server puts its pictures into {self.folder}; stop it, or name another folder "
                f"({named('output')})."
            ) from error
        except OSError as error:
            raise InputError(
                f"Cannot write into {self.folder} ({error.strerror or error}); choose another folder."
            ) from error
        try:
            yield
        finally:
            lock.release()

    # ----------------------------------------------------------------------------------------------------- pictures

    def put(self, prompt: str, seed: int, ending: str, data: bytes) -> str:
        """Writes a picture beside the others; returns its name. Raises Dit360Error if it cannot be written."""
        first = self.folder / f"{slug_of(prompt)}-{seed}{ending}"
        for path in itertools.chain([first], names_beside(first, ending)):
            with contextlib.suppress(NameTaken):
                write_whole(data, path)
                return path.name
        raise AssertionError("names are never at an end")

    def pictures(self) -> list[Kept]:
        """Those in the folder, the newest first."""
        found: dict[str, tuple[float, Kept]] = {}
        for entry in sorted(self._entries(), key=_changed, reverse=True)[:_SHOWN]:
            changed = _changed(entry)
            before = self._known.get(entry.name)
            if before is None or before[0] != changed:
                before = (changed, Kept(name=entry.name, changed=changed, settings=saved_settings(Path(entry.path))))
            found[entry.name] = before
        self._known = found
        return [kept for _, kept in found.values()]

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            return [
                entry
                for entry in os.scandir(self.folder)
                if entry.is_file(follow_symlinks=False)
                and Path(entry.name).suffix.lower() in FORMATS
                and _can_be_told(entry.name)
            ]
        except OSError:
            return []

    def path(self, name: str) -> Path | None:
        """The file of a picture that lies in the folder; None: there is none of that name."""
        return next((Path(entry.path) for entry in self._entries() if entry.name == name), None)

    # ------------------------------------------------------------------------------------------------------ requests

    def wait(self, number: str, wanted: Wanted, model: Mapping[str, Any]) -> None:
        """Keeps a request until it is done.

        model: what it is asked of, as :func:`dit360_core.serving.identity.identity` tells it.
        """
        with write_atomic(self._waiting(number), force=True) as file:
            file.write(json.dumps({**wanted.as_json(), _MODEL: model}).encode())

    def begin(self, number: str) -> None:
        """It is being made. Its file counts how often that began: ``NUMBER.2.json``."""
        self._count(number, 1)

    def leave(self, number: str) -> None:
        """It is not made now, by somebody's wish: that it began does not count."""
        self._count(number, -1)

    def _count(self, number: str, more: int) -> None:
        for path in self._files(number):
            count = max(0, _begun(path) + more)
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{number}.{count}.json" if count else f"{number}.json"))

    def done(self, number: str) -> None:
        """It waits no longer."""
        for path in self._files(number):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # another program looks at it, or the folder went away
                log.warning("The request in %s is done and cannot be removed (%s).", path, error)

    def left(self, model: Mapping[str, Any]) -> Iterator[tuple[str, Wanted]]:
        """Requests that an earlier process did not come to. What cannot be read is told, and stays.

        Those come last that were begun most often: it may be they that ended the process. What waits for another model
        waits on, and so does what was begun MOST_BEGUN times.

        model: what is loaded here.
        """
        others: collections.Counter[str] = collections.Counter()
        for path in sorted((self.folder / WAITING).glob("*.json"), key=lambda path: (_begun(path), _changed(path))):
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                asked = told.pop(_MODEL, model) if isinstance(told, dict) else model
                if asked != model:
                    others[json.dumps(asked, sort_keys=True)] += 1
                    continue
                number = path.name.partition(".")[0]
                if _begun(path) >= MOST_BEGUN:
                    log.warning(
                        "The request in %s was begun %d times, and each time the server ended before it was done; it "
                        "is not made. Name the file %s.json to have it tried again, or delete it.",
                        path, _begun(path), number,
                    )  # fmt: skip
                    continue
                yield number, wanted_of(told)
            except (OSError, ValueError, InputError) as error:
                log.warning("The request in %s cannot be read (%s); delete the file.", path, error)
        for asked, count in others.items():
            log.warning(
                "Requests in %s wait for a server with another model or other options: %d for %s. Start one, or delete "
                "the files.",
                self.folder / WAITING, count, asked if asked != "{}" else "the default",
            )  # fmt: skip

    def _waiting(self, number: str) -> Path:
        return self.folder / WAITING / f"{number}.json"

    def _files(self, number: str) -> list[Path]:
        """The file of a request, whether it was begun or not."""
        try:
            return [self._waiting(number), *(self.folder / WAITING).glob(f"{number}.*.json")]
        except OSError as error:  # the folder went away
            log.warning("The requests in %s cannot be looked at (%s).", self.folder / WAITING, error)
            return []


def _can_be_told(name: str) -> bool:
    """Whether a name can be sent to a page, and back: on Linux any bytes may be one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _begun(path: Path) -> int:
    """How often a request was begun, as the name of its file says."""
    count = path.name.removesuffix(".json").partition(".")[2]
    return int(count) if count.isdecimal() else 0


def _changed(entry: os.DirEntry[str] | Path) -> float:
    """When a file was changed; 0 of one that is gone by now."""
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
