"""``dit360 doctor``: what this machine has, what works of what is installed, and what to do about what is wrong."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer

from dit360_core.cli.output import reporting


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check this machine, models, plugins and attention kernels. Exit code 1 if something needs attention."""
    with reporting(logging.ERROR) as console:
        from dit360_core.cli.work.doctor import run

        root: Any = context.find_root()
        well = run(console, as_json, root.params.get("config"), root.command.commands)
        if not well:
            raise typer.Exit(1)
