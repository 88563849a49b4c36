"""``dit360 backends``: every offer of every plugin, whether it can be used here, and if not, why and what helps."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from dit360_core.cli.output import reporting


def backends(
    probe: Annotated[
        bool, typer.Option("--probe", help="Try and time every attention kernel, each against PyTorch's own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List every backend, scheduler, tiling and model that is installed, and why not if one cannot be used here."""
    # The report says itself which plugins failed; what they print while they are looked at is no part of it.
    with reporting(logging.ERROR):
        from dit360_core.cli.work.registered import run

        run(probe, as_json)
