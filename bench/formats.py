"""Size and time of one picture in every format that dit360 writes: the table of docs/formats.md.

    python bench/formats.py --width 2048

The embedded model paints it; what a model of another kind paints may be half or twice as large.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import dit360_core
import typer
from dit360_core.panorama.picture import Panorama

PROMPT = "a castle above a meadow at sunset"
FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("jpg", {}), ("webp", {}), ("avif", {}), ("png", {}), ("png", {"bits": 16}), ("tif", {}), ("exr", {}),
    ("exr", {"expand_highlights": True}),
)  # fmt: skip


def measured(panorama: Panorama, folder: Path) -> list[tuple[str, float, float, float]]:
    """(what, MiB, seconds to write, seconds to read) of each format."""
    rows = []
    for number, (ending, how) in enumerate(FORMATS):
        path = folder / f"{number}.{ending}"
        begun = time.perf_counter()
        panorama.save(path, **how)
        written = time.perf_counter()
        Panorama.open(path)
        read = time.perf_counter()
        what = " ".join([f".{ending}", *(f"{name}={value}" for name, value in how.items())])
        rows.append((what, path.stat().st_size / 2**20, written - begun, read - written))
    return rows


def main(
    width: Annotated[int, typer.Option(help="Of the picture, in pixels.")] = 2048,
    steps: Annotated[int, typer.Option(help="In which it is painted.")] = 8,
) -> None:
    """Paints one picture and writes and reads it in every format."""
    panorama = dit360_core.load("tiny").generate(PROMPT, seed=7, width=width, steps=steps)
    print(f"{panorama.width}×{panorama.height}")
    with tempfile.TemporaryDirectory() as folder:
        for what, size, write, read in measured(panorama, Path(folder)):
            print(f"| `{what}` | {size:.2f} MiB | {write:.2f} s | {read:.2f} s |")


if __name__ == "__main__":
    typer.run(main)
