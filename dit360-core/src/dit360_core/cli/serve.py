"""``dit360 serve``: one model stays loaded, for commands, for programs and for a page in the browser."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import reporting
from dit360_core.options import LoadOptions
from dit360_core.serving.place import PORT


def command() -> Callable[..., None]:
    """The command, with the signature of the options of loading."""

    def serve(port: int, output: Path, idle: float, open_page: bool, verbose: bool, **options: Any) -> None:
        with reporting(logging.INFO if verbose else logging.WARNING) as console:
            from dit360_core.cli.work.serve import run

            run(console, port, output, idle, open_page, options)

    serve.__doc__ = (
        "Keep a model loaded, for this machine only. 'dit360 generate' uses it, a page in the browser generates and "
        "edits, and programs call it as they call OpenAI's images API."
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = {
        "port": (PORT, Annotated[int, typer.Option("--port", help="Of localhost.", min=1024, max=65535)]),
        "output": (
            Path("panoramas"),
            Annotated[Path, typer.Option("--output", "-o", help="Folder of the pictures.")],
        ),
        "idle": (
            600.0,
            Annotated[
                float,
                typer.Option(
                    "--idle", help="Seconds without a request after which the weights leave memory. 0: never.", min=0
                ),
            ],
        ),
        "open_page": (False, Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]),
        "verbose": (False, Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")]),
    }
    serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(
                inspect.Parameter(name, keyword, default=default, annotation=kind)
                for name, (default, kind) in own.items()
            ),
            *parameters(LoadOptions),
        ]
    )
    serve.__annotations__ = {p.name: p.annotation for p in inspect.signature(serve).parameters.values()}
    return serve
