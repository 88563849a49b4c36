"""``dit360 view FILE`` and ``dit360 inspect FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit360_core.cli.output import reporting


def view(
    file: Annotated[Path, typer.Argument(help="A panorama (JPEG, PNG, WebP, AVIF, TIFF, EXR).", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the viewer (HTML) here instead of opening it.")
    ] = None,
    open_viewer: Annotated[bool, typer.Option("--open", help="Open the viewer even if --output is given.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the HTML file if it exists.")] = False,
    yaw: Annotated[
        float | None,
        typer.Option(help="First look this many degrees to the right of the middle, -360 to 360.", show_default=False),
    ] = None,
    pitch: Annotated[
        float | None,
        typer.Option(help="First look this many degrees above the horizon, -90 to 90.", show_default=False),
    ] = None,
    fov: Annotated[
        float | None,
        typer.Option(help="First field of view over the longer side, 20 to 120 degrees.", show_default=False),
    ] = None,
) -> None:
    """Look around in a panorama, in the browser and without a network."""
    with reporting() as console:
        from dit360_core.cli.work.picture import show

        show(console, file, output, open_viewer, force, yaw=yaw, pitch=pitch, fov=fov)


def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="A panorama (JPEG, PNG, WebP, AVIF, TIFF, EXR), or a file of weights.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell how well a panorama closes, its place on the sphere and what made it; or what a file of weights is."""
    with reporting():
        from dit360_core.cli.work.inspecting import tell

        tell(file, as_json)
