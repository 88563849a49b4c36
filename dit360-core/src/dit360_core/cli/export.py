"""``dit360 export FILE -o OUT --to WHAT`` and ``dit360 import OUT… -o FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit360_core.cli.output import reporting

_LAYOUTS = "plain|threejs|unity|unreal|godot"
_QUALITY = typer.Option("--quality", help="Of JPEG and WebP, 1 … 100.")


def export(
    file: Annotated[Path, typer.Argument(help="A panorama: JPEG, WebP or PNG.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write, or for six faces the folder to make.", show_default=False),
    ],
    to: Annotated[
        str, typer.Option("--to", help="What it becomes.", metavar="faces|cross|strip|view|little-planet")
    ] = "faces",
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="Whose names and turns the faces have.", metavar=_LAYOUTS, show_default="plain"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", help="Pixels along a face, or a little planet.", show_default="what loses nothing"),
    ] = None,
    yaw: Annotated[
        float | None,
        typer.Option("--yaw", help="Degrees to the right: a view's centre, or a planet's top.", show_default="0"),
    ] = None,
    pitch: Annotated[
        float | None, typer.Option("--pitch", help="Degrees upwards, of a view.", show_default="0")
    ] = None,
    roll: Annotated[
        float | None, typer.Option("--roll", help="Degrees clockwise, of a view.", show_default="0")
    ] = None,
    fov: Annotated[
        float | None,
        typer.Option(
            "--fov", help="Degrees over the longer side, of a view or a little planet.", show_default="90, or 270"
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", help="Pixels of a view.", show_default="what loses nothing")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", help="Pixels of a view.", show_default="3/4 of the width")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Of six faces.", metavar="png|jpg|webp", show_default="png")
    ] = None,
    quality: Annotated[int, _QUALITY] = 95,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
) -> None:
    """Write a panorama as a cube map (for three.js, Unity, Unreal, Godot), a camera's view or a little planet."""
    with reporting() as console:
        from dit360_core.cli.work.export import export as work

        asked = {"to": to, "layout": layout, "size": size, "yaw": yaw, "pitch": pitch, "roll": roll, "fov": fov,
                 "width": width, "height": height, "format": format}  # fmt: skip
        work(console, file, output, asked, quality, force)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A folder of six faces, the six files, or a cross or a strip.", metavar="FILES...", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The panorama to write: .jpg, .png, .webp.", show_default=False)
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="Whose names and turns the faces have.",
            metavar=_LAYOUTS,
            show_default="as the files tell, or their names",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", help="Pixels of the panorama.", show_default="its own before, or what loses nothing"),
    ] = None,
    quality: Annotated[int, _QUALITY] = 95,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Make a panorama of a cube map: the inverse of export."""
    with reporting() as console:
        from dit360_core.cli.work.export import import_ as work

        work(console, files, output, layout, width, quality, force)
