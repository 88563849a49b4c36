"""ComfyUI's own front end in a headless Chromium, with a graph of a picture and the preview of it.

``COMFYUI_FRONTEND`` may name a folder with another version of the front end than ComfyUI's own.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dit360_comfy
import numpy as np
import pytest
from comfy_server import Server, comfyui_dir
from headless_browser import CHROMIUM, Browser
from PIL import Image

NODE = "Equirect360Preview"
VIEWER = "window.node360.dit360"


@contextmanager
def serving(base: Path, pictures: Mapping[str, Image.Image]) -> Iterator[Server]:
    """A server with our nodes and these pictures in its input folder; skips where it or a browser is not there."""
    comfyui_dir()
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    for folder in ("custom_nodes", "input", "user/default"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "dit360-comfy").symlink_to(Path(dit360_comfy.__file__).parent / "node_pack")
    settings = {"Comfy.TutorialCompleted": True, "Comfy.Window.UnloadConfirmation": False}
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))
    for name, image in pictures.items():
        image.save(base / "input" / name, quality=95)
    other = os.environ.get("COMFYUI_FRONTEND")
    with Server(base, *(("--front-end-root", other) if other else ())) as server:
        yield server


class FrontEnd(Browser):
    """ComfyUI's page, with a graph of a picture and its preview: ``node360``."""

    def enter(self, url: str, before: str = "") -> None:
        self.emulate(1280, 860)
        self.load(url, before)
        self.until("window.app?.graph && window.LiteGraph?.registered_node_types.Equirect360Preview", 50)
        self.until("document.querySelector('#graph-canvas')?.width > 300 && app.canvas", 50)
        self.until("app.graph._nodes.length", 50)
        time.sleep(1)  # its own start-up graph comes a little later, and would replace ours

    def graph(self, image: str = "panorama.png", many: int = 1, **widgets: object) -> None:
        """A new graph, not yet run."""
        # The front end gives a new node what the one of the same number had before the graph was cleared.
        widgets = {"save": False, "filename_prefix": "dit360", "format": "jpg", "quality": 95, "mask": "", **widgets}
        self.run(
            f"""(() => {{
              document.activeElement?.blur();
              app.graph.clear();
              app.nodeOutputs = {{}};
              app.canvas.ds.scale = 1;
              app.canvas.ds.offset = [0, 0];
              const add = (name, x) => {{
                const node = LiteGraph.createNode(name);
                app.graph.add(node);
                node.pos = [x, 100];
                return node;
              }};
              const set = (node, name, value) => {{ node.widgets.find((w) => w.name === name).value = value; }};
              const load = add("LoadImage", 60), repeat = add("RepeatImageBatch", 60), node = add("{NODE}", 420);
              repeat.pos = [60, 560];
              set(load, "image", {json.dumps(image)});
              set(repeat, "amount", {many});
              for (const [name, value] of Object.entries({json.dumps(widgets)})) set(node, name, value);
              load.connect(0, repeat, 0);
              repeat.connect(0, node, 0);
              window.node360 = node;
              app.graph.setDirtyCanvas(true, true);
            }})()"""
        )
        self.until(f"{VIEWER}.element.clientWidth > 0")

    def queue(self) -> None:
        """Runs the graph as the button does, until the viewer can be looked around in."""
        self.run("app.queuePrompt(0)")
        self.until(f"{VIEWER}.pictures.length", 50)
        assert self.run(f"{VIEWER}.ready") is True

    def view(self, **wanted: float) -> dict:
        return self.run(f"{VIEWER}.view({json.dumps(wanted) if wanted else ''})")

    def pixels(self) -> np.ndarray:
        """What the viewer's canvas holds, (H, W, 3) as float."""
        url = self.run(f"{VIEWER}.canvas.toDataURL('image/png')")
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGB")).astype(float)

    def box(self) -> tuple[float, float, float, float]:
        """x, y, width and height of the viewer in the window."""
        code = (
            f"(() => {{ const r = {VIEWER}.canvas.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] }})()"
        )
        return tuple(self.run(code))

    def middle(self) -> tuple[float, float]:
        x, y, width, height = self.box()
        return x + width / 2, y + height / 2

    def place(self) -> list:
        """Of the node in the graph, and of the graph in the window."""
        return self.run("[...node360.pos, ...app.canvas.ds.offset, app.canvas.ds.scale]")

    def press(self, *names: str) -> None:
        for name in names:
            self.key(name, "keyDown")
            self.key(name, "keyUp")

    def draws(self) -> int:
        return self.run(f"{VIEWER}.draws")
