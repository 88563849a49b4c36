"""A headless Chromium, driven with nothing but the standard library, and a panorama whose colours tell directions.

The browser talks through its DevTools pipe: file descriptors 3 and 4, JSON ended by NUL.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def direction(yaw: np.ndarray | float, pitch: np.ndarray | float) -> np.ndarray:
    """Unit vector (…, 3) to the right, up and ahead, of angles in degrees."""
    yaw, pitch = np.broadcast_arrays(np.radians(yaw), np.radians(pitch))
    return np.stack((np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)), axis=-1)


def picture(height: int) -> Image.Image:
    """Each pixel's colour is its direction, 127.5 · (vector + 1), which changes evenly over the whole sphere."""
    yaw = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 360
    pitch = (0.5 - (np.arange(height) + 0.5) / height) * 180
    return Image.fromarray((127.5 * (direction(yaw[None, :], pitch[:, None]) + 1)).round().astype(np.uint8))


def expected(yaw: float, pitch: float, fov: float, width: int, height: int) -> np.ndarray:
    """Colours (H, W, 3) of that view of ``picture``, from the geometry of a pinhole camera."""
    pixel = 2 * np.tan(np.radians(fov / 2)) / max(width, height)
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) * pixel, (height / 2 - np.arange(height) - 0.5) * pixel)
    turn = np.stack((direction(yaw + 90, 0), direction(yaw, pitch + 90), direction(yaw, pitch)))
    rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ turn
    return 127.5 * (rays / np.linalg.norm(rays, axis=-1, keepdims=True) + 1)


class Browser:
    """A headless Chromium with one page. Every message that it sends by itself is kept in ``events``."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.buffer, self.count, self.session = read, write, b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda message: message.get("id") == self.count)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait(self, wanted: Callable[[dict], bool], seconds: float = 60) -> dict:
        """The next message for which ``wanted`` holds; fails after some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\0" not in self.buffer:
                ready, _, _ = select.select([self.read], [], [], max(0, deadline - time.monotonic()))
                chunk = os.read(self.read, 1 << 20) if ready else b""
                assert chunk, f"Chromium closed its pipe or gave no answer in {seconds:g} s"
                self.buffer += chunk
            line, self.buffer = self.buffer.split(b"\0", 1)
            message = json.loads(line)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def run(self, code: str) -> object:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (code, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Waits until a JavaScript expression is true; fails after some seconds."""
        code = (
            f"new Promise((done) => {{ const end = performance.now() + {1000 * seconds};"
            f"const watch = setInterval(() => {{ const met = {condition};"
            "if (met || performance.now() > end) { clearInterval(watch); done(Boolean(met)); } }, 30); })"
        )
        assert self.run(code), condition

    def emulate(self, width: int, height: int, ratio: float = 1) -> None:
        """Gives the window that size, in CSS pixels, and that many device pixels for each."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=False
        )

    def load(self, url: str, before: str = "") -> None:
        """Opens a page, until its load event. ``before``: script that runs before the page's own."""
        self.events.clear()
        script = self.call("Page.addScriptToEvaluateOnNewDocument", source=before)["identifier"]
        self.call("Page.navigate", url=url)
        self.wait(lambda message: message.get("method") == "Page.loadEventFired")
        self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)

    def screenshot(self) -> np.ndarray:
        """What the window shows now, (H, W, 3) as float."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.asarray(image.convert("RGB")).astype(float)

    def key(self, name: str, kind: str) -> None:
        text = name if len(name) == 1 and kind == "keyDown" else ""
        self.call("Input.dispatchKeyEvent", type=kind, key=name, text=text)

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


# dup2 gives the pipe the two numbers that Chromium expects; exec keeps the process that the test will end.
LAUNCH = "import os, sys; r, w, *a = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execv(a[0], a)"
FLAGS = [
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--disable-extensions", "--force-color-profile=srgb",
]  # fmt: skip


@contextmanager
def chromium(profile: Path, kind: type[Browser] = Browser) -> Iterator[Browser]:
    """Starts it with a new profile; skips the test where that cannot be."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    if not hasattr(os, "fork"):
        pytest.skip("the DevTools pipe needs file descriptors 3 and 4 of a POSIX system")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # High numbers, so that neither end is already 3 or 4.
    ends = [os.dup(end) for end in (to_read, from_write)]
    command = [sys.executable, "-c", LAUNCH, *map(str, ends), CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for end in (to_read, from_write, *ends):
        os.close(end)
    try:
        browser = kind(from_read, to_write)
        yield browser
        browser.session = None
        browser.call("Browser.close")
        process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(from_read)
        os.close(to_write)
