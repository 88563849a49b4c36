"""A picture in the terminal: sharp where that takes pictures (kitty, iTerm2, WezTerm …), else in blocks."""

from __future__ import annotations

from PIL import Image
from rich.console import Console

from dit360_core.errors import BackendUnavailable
from dit360_core.system.installed import installed_version

NEEDED = "textual-image"
WIDEST = 100
"""Columns of characters that a picture takes at most."""


def check(console: Console) -> bool:
    """Whether pictures can be shown. Raises BackendUnavailable if what shows them is not installed."""
    if installed_version(NEEDED) is None:
        raise BackendUnavailable(
            f"A preview needs {NEEDED}, which is not installed; pip install 'dit360-core[preview]'."
        )
    if not console.is_terminal:
        console.print("No preview is shown, because nobody looks on at a terminal.")
    return console.is_terminal


def show(console: Console, image: Image.Image) -> None:
    """Shows a picture, twice as wide as high, below what was written."""
    from textual_image.renderable import Image as Shown  # asks the terminal what it can do

    console.print(Shown(image, width=min(WIDEST, console.width)))
