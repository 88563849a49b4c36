"""``python comfy_serve.py COMFYUI_DIR …``: starts ComfyUI's main.py where torch has no matching torchvision.

A CPU build of torch from one index and torchvision from another do not know each other's operators, and torchvision
cannot be imported then. ComfyUI uses none of them; declaring their names is enough.
"""

import contextlib
import os
import runpy
import sys
from pathlib import Path

import torch

declared = torch.library.Library("torchvision", "DEF")
try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    with contextlib.suppress(RuntimeError):
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

folder = Path(sys.argv[1]).resolve()
os.chdir(folder)
sys.path.insert(0, str(folder))
sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
