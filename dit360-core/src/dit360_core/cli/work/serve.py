"""Starts a server, and tells how it is reached."""

from __future__ import annotations

import math
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from dit360_core.cli.bar import LoadingBar
from dit360_core.errors import BackendUnavailable, InputError
from dit360_core.options import LoadOptions, build_own
from dit360_core.serving.place import Place
from dit360_core.serving.shelf import Shelf
from dit360_core.system.installed import installed_version

NEEDED = ("starlette", "uvicorn", "python-multipart")


def run(console: Console, port: int, output: Path, idle: float, open_page: bool, options: dict[str, Any]) -> None:
    """Serves until it is told to stop."""
    if math.isnan(idle):
        raise InputError("--idle is nan, but must be seconds, or 0 for never.")
    missing = [name for name in NEEDED if installed_version(name) is None]
    if missing:
        raise BackendUnavailable(
            f"A server needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "pip install 'dit360-core[serve]'."
        )
    loading = build_own(LoadOptions, options)
    shelf = Shelf(output)
    shelf.check()

    bar = ExitStack()

    def begun(place: Place, left: int, once: str) -> None:
        bar.close()
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
            webbrowser.open(once)

    from dit360_core.serving.running import serve  # brings starlette and uvicorn, which may be missing

    with bar:
        bar.enter_context(LoadingBar(console, loading.model))
        serve(loading, shelf, port, idle, begun)
