"""Starts a server: the model is looked for and checked, then the page's address is told, then requests are answered."""

from __future__ import annotations

import os
import secrets
import socket
import webbrowser
from pathlib import Path
from typing import Any

from rich.console import Console

from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, named
from dit360_core.options import LoadOptions, build, own_options
from dit360_core.serving.asking import Server
from dit360_core.serving.place import HOST, Place, identity, tell, told, withdraw
from dit360_core.serving.shelf import Shelf
from dit360_core.system.installed import installed_version

NEEDED = ("starlette", "uvicorn", "python-multipart")


def run(console: Console, port: int, output: Path, idle: float, open_page: bool, options: dict[str, Any]) -> None:
    """Serves until it is told to stop."""
    missing = [name for name in NEEDED if installed_version(name) is None]
    if missing:
        raise BackendUnavailable(
            f"A server needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "pip install 'dit360-core[serve]'."
        )
    loading = build(LoadOptions, own_options(LoadOptions, options))
    shelf = Shelf(output)
    shelf.check()
    listening = _listening(port)
    try:
        import uvicorn

        from dit360_core.serving.web import Web
        from dit360_core.serving.working import Worker

        with console.status(f"Looking for {loading.model} …"):
            worker = Worker(loading, shelf, idle=idle)
        place = Place(port=port, token=secrets.token_urlsafe(24), pid=os.getpid(), loading=identity(loading))
        web = Web(worker, shelf, port=port, token=place.token)
        left = worker.start()
        tell(place)
        try:
            address = f"{place.address}/?token={place.token}"
            for line in (
                f"{loading.model} is served on this machine; pictures go to {output}.",
                f"The page:    {address}",
                f"OpenAI's:    {place.address}/v1, with the API key {place.token}",
                "Commands:    'dit360 generate' uses it for this model and these options. Ctrl-C ends it.",
                *([f"{left} pictures were left by an earlier run and are made first."] if left else []),
            ):
                console.print(line, markup=False, soft_wrap=True, highlight=False)
            if open_page:
                webbrowser.open(address)
            config = uvicorn.Config(
                web.app, log_level="warning", access_log=False, server_header=False, date_header=False,
                timeout_graceful_shutdown=2, limit_concurrency=64, h11_max_incomplete_event_size=32 * 1024,
            )  # fmt: skip
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            withdraw(place)
            worker.stop()
    finally:
        listening.close()


def _listening(port: int) -> socket.socket:
    """A socket of localhost. Raises InputError where the port is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        place = told()
        if place is not None and place.port == port and _answers(place):
            raise InputError(
                f"A server runs at {place.address} already; stop it, or take another {named('port')}."
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
