"""A server from its beginning to its end: it tells where it is, answers, and takes its word back."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable

import uvicorn

from dit360_core.errors import Dit360Error, InputError, named
from dit360_core.options import LoadOptions
from dit360_core.serving.asking import Server
from dit360_core.serving.connections import Impatient
from dit360_core.serving.identity import identity
from dit360_core.serving.place import HOST, Place, tell, told, withdraw
from dit360_core.serving.shelf import Shelf
from dit360_core.serving.web import Web
from dit360_core.serving.working import Worker

MOST_CONNECTIONS = 256
"""At a time: all that may wait, and the page's."""


def serve(loading: LoadOptions, shelf: Shelf, port: int, idle: float, begun: Callable[[Place, int, str], None]) -> None:
    """Serves until it is told to stop.

    port: of HOST.
    idle: seconds without a request after which the weights leave memory; 0: they stay.
    begun: called when it answers, with its place, how many pictures an earlier process left, and an address of the page
        that is good once, which may be seen by others.

    Raises InputError where the port is taken, and what loading a model raises.
    """
    with _listening(port) as listening, shelf.locked():
        worker = Worker(loading, shelf, idle=idle)
        place = Place(port=port, token=secrets.token_urlsafe(24), pid=os.getpid(), loading=identity(loading))
        web = Web(worker, shelf, port=port, token=place.token)
        left = worker.start()
        tell(place)
        try:
            begun(place, left, f"{place.address}/?token={web.app.once()}")
            config = uvicorn.Config(
                web.app, http=Impatient, ws="none", log_level="warning", access_log=False, server_header=False,
                date_header=False, timeout_graceful_shutdown=2, limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=32 * 1024,
            )  # fmt: skip
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            withdraw(place)
            worker.stop()


def _listening(port: int) -> socket.socket:
    """A socket of this machine alone. Raises InputError where the port is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # on Windows it would let two programs have one port
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        if any(place.port == port and _answers(place) for place in told()):
            raise InputError(
                f"A server runs at http://{HOST}:{port} already; stop it, or take another {named('port')}."
            ) from error
        raise InputError(
            f"Port {port} of this machine is taken ({error.strerror}); take another {named('port')}."
        ) from error
    found.listen(64)
    return found


def _answers(place: Place) -> bool:
    try:
        return Server(place=place).state().get("dit360") is True
    except Dit360Error:
        return False
