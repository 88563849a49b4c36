"""``dit360 new-plugin KIND NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit360_core.cli.output import reporting
from dit360_core.plugins.hookspecs import KINDS


def new_plugin(
    kind: Annotated[
        str,
        typer.Argument(help=f"What it offers: {', '.join(KINDS)}.", metavar="KIND", show_default=False),
    ],
    name: Annotated[
        str, typer.Argument(help="What users will ask for: small letters, digits, '_', '.', '-'.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make.", show_default="named for the kind and the name"),
    ] = None,
) -> None:
    """Write the project of a new plugin: code that works, tests of the contract, a README. Yours to change."""
    with reporting():
        from dit360_core.cli.work.new_plugin import run

        run(kind, name, output)
