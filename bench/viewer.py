"""How a large picture opens in the viewer: docs/viewer.md has what this prints.

    python bench/viewer.py                     # 16384×8192, in the Chromium on the PATH
    python bench/viewer.py --gpu               # with the machine's graphics device instead of software
    python bench/viewer.py --columns 6000 --rounds 1

Each round opens the page anew in one browser, the first one to warm up: a browser that never drew with WebGL begins its
graphics process then, which is no work of the page. The numbers are of Chromium's own observer of long tasks.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from dit360_core.panorama.picture import Panorama
from PIL import Image
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # whose browser this is
import headless_browser
from viewer_page import Viewer

WINDOW = (1280, 720)
WATCH = """
  window.tasks = [];
  const both = ({ startTime, duration }) => [startTime, duration];
  new PerformanceObserver((list) => tasks.push(...list.getEntries().map(both)))
    .observe({ type: "longtask", buffered: true });
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (...given) {
    const begun = performance.now(), made = get.apply(this, given);
    window.device = [begun, performance.now() - begun];
    return made;
  };"""
app = typer.Typer()


def photo(columns: int) -> Image.Image:
    """A panorama that is as much work to decode as a photograph: even shades, with noise of a few levels."""
    small = headless_browser.picture(512)
    image = np.asarray(small.resize((columns, columns // 2), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).integers(-4, 5, (512, 512, 3), np.int16)
    for top in range(0, columns // 2, 512):
        for left in range(0, columns, 512):
            part = image[top : top + 512, left : left + 512]
            part += noise[: part.shape[0], : part.shape[1]]
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


@app.command()
def measure(
    columns: Annotated[int, typer.Option(help="Of the picture; even.")] = 16384,
    rounds: Annotated[int, typer.Option(help="Openings that count, after one to warm up.")] = 5,
    gpu: Annotated[bool, typer.Option("--gpu", help="Draw with the graphics device.")] = False,
) -> None:
    """Open a picture several times and tell the longest task of the page's main thread."""
    if gpu:
        software = ("--use-gl", "--use-angle", "--enable-unsafe")
        headless_browser.FLAGS[:] = [flag for flag in headless_browser.FLAGS if not flag.startswith(software)]
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        page = Panorama(photo(columns)).view(Path(folder) / "page.html", open_browser=False)
        console.print(f"{columns}×{columns // 2}: a page of {page.stat().st_size / 2**20:.0f} MiB")
        with headless_browser.chromium(Path(folder) / "profile", Viewer) as browser:
            browser.emulate(*WINDOW)
            opened = [one for number in range(rounds + 1) if (one := opening(browser, page)) and number]
    for name in opened[0]:
        values = [one[name] for one in opened]
        console.print(f"{name}: {statistics.median(values):.0f} (median), {max(values):.0f} (most)")


def opening(browser: Viewer, page: Path) -> dict[str, float]:
    """Milliseconds and numbers of one opening, of a turn, and of a look at a pole."""
    browser.open(page, "#yaw=10&pitch=0&fov=60", before=WATCH)
    told = {"preview shown after, ms": browser.run("dit360.ready.then(() => performance.now())")}
    for yaw, pitch, fov in [(10, 0, 60), (180, -20, 30), (0, 90, 60)]:
        browser.run(f"dit360.view({{ yaw: {yaw}, pitch: {pitch}, fov: {fov} }}); dit360.settled()")
        told.setdefault("every tile of the first view shown after, ms", browser.run("performance.now()"))
    begun, device = browser.run("device")
    # Long tasks are those above 50 ms.
    others = [duration for start, duration in browser.run("tasks") if not start <= begun <= start + duration]
    return {
        **told,
        "the browser's making of a WebGL context, ms": device,
        "longest other task, ms (0: none above 50)": max(others, default=0),
        "tiles uploaded": browser.run("dit360.tiles().uploads"),
        "MiB of textures for tiles": browser.run("dit360.tiles().bytes / 2 ** 20"),
    }


if __name__ == "__main__":
    app()
