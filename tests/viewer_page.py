"""A page of dit360's viewer in a headless Chromium."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from headless_browser import Browser

WIDTH, HEIGHT = 240, 180  # of the window in most tests: small, since software draws it

UNASKED = """
  { const add = window.addEventListener;
    window.addEventListener = (kind, ...more) => kind === "beforeunload" || add.call(window, kind, ...more); }"""
"""A page with an unsaved mask would ask whether to leave it, and wait for an answer."""


class Viewer(Browser):
    """One page of dit360's."""

    def __init__(self, read: int, write: int) -> None:
        super().__init__(read, write)
        self.emulate()

    def emulate(self, width: int = WIDTH, height: int = HEIGHT, ratio: float = 1) -> None:
        super().emulate(width, height, ratio)

    def open(self, page: Path, fragment: str = "", before: str = "", asks: bool = False) -> None:
        """Loads a page until it can be looked around in.

        before: script that runs before the page's own. asks: whether it may ask before it is left.
        """
        # A query of its own: a change of the fragment alone would load nothing.
        self.load(f"{page.as_uri()}?{self.count}{fragment}", before + ("" if asks else UNASKED))
        self.run("dit360.ready")

    def see(self) -> np.ndarray:
        """What the canvas shows now, without the texts over it, (H, W, 3) as float."""
        # Without what the page does slowly: the canvas fades in, and the hint is seen for 0.7 s after it is hidden.
        self.run(
            "document.querySelectorAll('canvas, #about, #controls, #hint, #anew, .painting, .painting-ring')"
            ".forEach((part) => { part.style.transition = 'none';"
            " if (part.localName !== 'canvas') part.style.visibility = 'hidden'; })"
        )
        return self.screenshot()

    def drawn(self) -> None:
        """Waits until what was asked to be drawn is: the page asks for a frame, and this for one after that."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def rests(self) -> None:
        """Waits until the view has stopped: a frame in which it moves turns it."""
        self.run(
            "new Promise((done) => { let last = NaN; const watch = () => { const { yaw } = dit360.view();"
            "if (yaw === last) done(); else { last = yaw; requestAnimationFrame(watch); } }; watch(); })"
        )
