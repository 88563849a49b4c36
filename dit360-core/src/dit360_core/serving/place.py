"""Where a server of this user tells of itself, so that commands find it. It imports nothing that is slow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import platformdirs

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


def _file() -> Path:
    return state_folder() / "server.json"


def tell(place: Place) -> Path:
    """Writes where the server is, for this user's eyes only."""
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path, force=True) as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(attrs.asdict(place), indent=1).encode())
    return path


def withdraw(place: Place) -> None:
    """The server is gone. Another's word stays."""
    if told() == place:
        _file().unlink(missing_ok=True)


def told() -> Place | None:
    """What was told last; None: nothing, or nothing that can be read."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        place = Place(**found)
    except (OSError, ValueError, TypeError):
        return None
    right = isinstance(place.port, int) and isinstance(place.token, str) and isinstance(place.loading, Mapping)
    return place if right and 0 < place.port < 65536 else None
