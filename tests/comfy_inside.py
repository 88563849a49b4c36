"""Functions of tests, run in a process of ComfyUI's: they import what they use, and return what JSON can hold."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from comfy_server import PYTHON, comfyui_dir

START = """
import json, os, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
os.chdir(folder)
sys.argv = ["main.py", "--cpu"]
import torch
torch.set_num_threads(1)
# A torch without its torchvision: ComfyUI imports it and uses none of its operators.
declared = torch.library.Library("torchvision", "DEF")
try:
    import torchvision
except RuntimeError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        try:
            declared.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            pass
import comfy.options
comfy.options.enable_args_parsing()
"""


def run_inside(function: Callable[[], Any], helpers: Iterable[Callable[..., Any]]) -> Any:
    """What a function without arguments returns in a ComfyUI; skips where there is none.

    helpers: the function, and the others that it calls by their names.
    """
    folder = comfyui_dir()
    source = "\n".join([START, *(textwrap.dedent(inspect.getsource(f)) for f in helpers)])
    source += f"\nprint('told:' + json.dumps({function.__name__}()))\n"
    done = subprocess.run(
        [PYTHON, "-c", source, str(folder.resolve())],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("told:")]
    assert done.returncode == 0, done.stderr[-4000:]
    assert lines, done.stdout[-4000:]
    return json.loads(lines[-1].removeprefix("told:"))
