"""The pictures of the template browser: the examples, run in a real ComfyUI with the embedded model.

The embedded model stands in for weights of 34 GB, and the thumbnail of the example with ComfyUI's own FLUX is painted
by the first one of ours, with its own prompt. The notes in the examples say so.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from examples import EXAMPLES, PREFIX
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH, QUALITY = 400, 80


def paint(folder: Path) -> None:
    """Writes ``folder/NAME.jpg`` beside every ``folder/NAME.json``. Raises RuntimeError if one cannot be run."""
    # What runs ComfyUI for the tests.
    sys.path.insert(0, str(ROOT / "tests"))
    from comfy_server import Server, errors
    from comfy_workflows import as_prompt, change, kinds

    ours = next(example for example in EXAMPLES if example.name.endswith("low VRAM"))
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "custom_nodes").mkdir()
        (Path(base) / "custom_nodes" / "dit360-comfy").symlink_to(folder.parent)
        with Server(Path(base)) as server:
            nodes = server.get("/object_info").body
            for example in EXAMPLES:
                workflow = json.loads((folder / f"{example.name}.json").read_text("utf-8"))
                if "DiT360Loader" not in kinds(workflow):
                    prompt = _prompt_of(workflow)
                    workflow = json.loads((folder / f"{ours.name}.json").read_text("utf-8"))
                    change(workflow, nodes, "DiT360TextEncode", prompt=prompt)
                change(workflow, nodes, "DiT360Loader", model_path="tiny")
                done = server.run(as_prompt(workflow, nodes))
                if errors(done):
                    raise RuntimeError(errors(done)[0]["exception_message"])
                (told,) = [told for output in done["outputs"].values() for told in output.get("dit360_panoramas", ())]
                data = server.view({name: told[name] for name in ("filename", "subfolder", "type")})
                picture = Image.open(io.BytesIO(data))
                small = picture.resize((WIDTH, WIDTH // 2), Image.Resampling.LANCZOS)
                small.save(folder / f"{example.name}.jpg", quality=QUALITY, optimize=True)
                print(f"{example.name}.jpg painted")


def _prompt_of(workflow: dict[str, Any]) -> str:
    (text,) = [node for node in workflow["nodes"] if node["type"] == "CLIPTextEncode"]
    return str(text["widgets_values"][0]).removeprefix(PREFIX)
