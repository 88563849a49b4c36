"""Where a server of this user tells of itself, so that commands find it. It imports nothing that is slow."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import platformdirs
import psutil

from dit360_core.system.atomic import write_atomic

HOST = "127.0.0.1"
"""The only address that is listened to."""
PORT = 8360
STATE = "DIT360_STATE_DIR"
"""Environment variable: the folder of what programs of this user tell each other, instead of the system's own."""


@attrs.frozen(kw_only=True)
class Place:
    """A server that runs, or did.

    port: on HOST.
    token: who knows it may ask.
    pid: its process.
    loading: of its model, as :func:`dit360_core.serving.identity.identity` tells it.
    """

    port: int
    token: str = attrs.field(repr=False)
    pid: int
    loading: Mapping[str, Any]

    @property
    def address(self) -> str:
        """For a browser or a client."""
        return f"http://{HOST}:{self.port}"


def state_folder() -> Path:
    """The folder of what programs of this user tell each other."""
    told = os.environ.get(STATE)
    return Path(told).expanduser() if told else Path(platformdirs.user_state_dir("dit360", appauthor=False))


def tell(place: Place) -> Path:
    """Writes where the server is, for this user's eyes only."""
    path = _file(place.port)
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in _files():  # of those that were killed
        if (gone := _read(other)) is not None and not _lives(gone):
            other.unlink(missing_ok=True)
    with write_atomic(path, force=True) as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(attrs.asdict(place), indent=1).encode())
    return path


def withdraw(place: Place) -> None:
    """The server is gone. Another's word stays."""
    path = _file(place.port)
    if _read(path) == place:
        path.unlink(missing_ok=True)


def told() -> list[Place]:
    """Servers that told where they are and whose processes live, the latest first."""
    found = [(place, _written(path)) for path in _files() if (place := _read(path)) is not None]
    # Of a process that was killed the port may be another program's by now, which must not see the token.
    return [place for place, _ in sorted(found, key=lambda pair: pair[1], reverse=True) if _lives(place)]


def _file(port: int | str) -> Path:
    # On a cluster, the folder may be one of several machines.
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:12] if sys.platform == "linux" else "here"
    return state_folder() / f"server-{machine}-{port}.json"


def _files() -> list[Path]:
    try:
        return list(state_folder().glob(_file("*").name))
    except OSError:
        return []


def _written(path: Path) -> float:
    """When a file was; 0 of one that is gone by now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lives(place: Place) -> bool:
    try:
        return bool(psutil.pid_exists(place.pid))
    except (OverflowError, ValueError):  # a number that is no process's
        return False


def _read(path: Path) -> Place | None:
    """What a file tells; None: nothing that can be read."""
    try:
        place = Place(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    numbers = all(isinstance(number, int) and number > 0 for number in (place.port, place.pid))
    right = numbers and isinstance(place.token, str) and isinstance(place.loading, Mapping)
    return place if right and place.port < 65536 else None
