"""A picture in the terminal: sharp where that takes pictures (kitty, iTerm2, WezTerm …), else in blocks."""

from __future__ import annotations

import logging
from weakref import WeakSet

from PIL import Image
from rich.console import Console

from dit360_core.cli.output import harmless
from dit360_core.errors import BackendUnavailable
from dit360_core.system.installed import installed_version

NEEDED = "textual-image"
WIDEST = 100
"""Columns of characters that a picture takes at most."""


_without: WeakSet[Console] = WeakSet()
"""Those of runs whose terminal could not show a picture."""


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
    """Shows a picture, twice as wide as high, below what was written.

    That a terminal cannot show it is told once, and no other is shown in this run: the picture itself is worth more.
    """
    if console in _without:
        return
    # It would tell of a terminal that does not answer, with a traceback; blocks are shown there.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    try:
        from textual_image.renderable import Image as Shown  # asks the terminal what it can do

        console.print(Shown(image, width=min(WIDEST, console.width)))
    except Exception as error:  # noqa: BLE001 - a terminal answers in many ways, or what is typed comes between
        _without.add(console)
        console.print(
            harmless(
                f"No preview is shown, because this terminal did not answer as expected ({type(error).__name__}: "
                f"{error}); the picture is made without one."
            ),
            markup=False,
            soft_wrap=True,
        )
