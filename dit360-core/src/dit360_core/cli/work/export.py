"""Writes a panorama in other projections, and makes one of a cube map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dit360_core.cli.output import harmless
from dit360_core.panorama.cubemaps import FORMS, LAYOUTS, check_width
from dit360_core.panorama.exporting import Export, check_target, write
from dit360_core.panorama.importing import panorama_of, read_faces
from dit360_core.panorama.picture import Panorama, check_held, check_quality, check_save
from dit360_core.sphere.size import panorama_height


def export(console: Console, file: Path, output: Path, asked: dict[str, Any], quality: int, force: bool) -> None:
    """Writes what is asked, and tells what became of it. What is wrong with that is told before the picture is read."""
    wanted = Export(**asked)
    check_target(wanted, output, quality=quality, force=force)
    panorama = Panorama.open(file)
    if panorama.floats is not None:
        _tell(console, f"{file} has more than 8 bits a channel, and what is exported has 8.")
    written = write(panorama, wanted, output, quality=quality, force=force)
    width, height = next(iter(written.values())).size
    for path in written:
        _tell(console, f"Wrote {path}")
    how = f", layout {wanted.layout or 'plain'}" if wanted.to in FORMS else f", fov {wanted.degrees:g}°"
    each = " each" if len(written) > 1 else ""
    _tell(console, f"{wanted.to} of {file}: {width}×{height} pixels{each}{how}.")


def import_(
    console: Console,
    files: Sequence[Path],
    output: Path,
    layout: str | None,
    width: int | None,
    quality: int,
    force: bool,
) -> None:
    """Writes the panorama, and tells what was taken for what."""
    check_quality(quality)
    if width is not None:
        check_width(width)
    kind = check_save(output, force=force, width=width)
    read = read_faces(files, layout)
    if width is None:
        check_held(kind, read.width or 2 * panorama_height(read.size))
    panorama = panorama_of(read, width)
    panorama.save(output, quality=quality, force=force)
    _tell(console, f"Wrote {output}: {panorama.width}×{panorama.height} pixels.")
    order = f" ({', '.join(LAYOUTS[read.layout.name].row)})" if read.form == "strip" else ""
    _tell(console, f"Read {read.form} of {read.size}×{read.size} pixels, layout {read.layout.name}{order}, {read.why}.")


def _tell(console: Console, text: str) -> None:
    console.print(harmless(text), markup=False, soft_wrap=True)
