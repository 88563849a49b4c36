"""The nodes of ComfyUI called as ComfyUI calls them, without ComfyUI, and what several files of tests give them."""

import pytest
import torch
from dit360_comfy.nodes import NODE_CLASS_MAPPINGS
from dit360_core.errors import Dit360Error
from dit360_core.sphere.views import directions

TINY = {"model_path": "tiny", "precision": "auto", "vae_path": "", "t5_path": "", "offload_to_cpu": True}
WIDTH, HEIGHT = 128, 64
SAMPLING = {"width": 0, "height": 0, "steps": 2, "cfg_scale": -1.0, "seed": 5, "circular_padding": -1}
INPAINTING = {"steps": 2, "cfg_scale": -1.0, "denoise": 1.0, "blur_radius": 10, "blend_mode": "cosine", "seed": 5}


def run(name: str, **inputs):
    """As ComfyUI runs a node: checked first, in inference mode."""
    cls = NODE_CLASS_MAPPINGS[name]
    linked = {key: value if isinstance(value, bool | int | float | str) else None for key, value in inputs.items()}
    assert cls.VALIDATE_INPUTS(**linked) is True
    with torch.inference_mode():
        made = getattr(cls(), cls.FUNCTION)(**inputs)
    return made["result"] if isinstance(made, dict) else made


def refused(name: str, **inputs) -> str:
    with pytest.raises(Dit360Error) as told:
        run(name, **inputs)
    assert "\n" not in str(told.value)
    return str(told.value)


def sky(height: int = HEIGHT) -> torch.Tensor:
    """IMAGE of a panorama that is smooth on the sphere, and different in each direction; as an 8-bit file has it."""
    seen = directions(height)
    waves = torch.stack([torch.sin(3 * seen[..., i] + seen[..., (i + 1) % 3]) for i in range(3)], dim=-1)
    return ((waves * 0.4 + 0.5) * 255).round().float()[None] / 255


def region(yaw: float = 180.0, pitch: float = 0.0, fov: float = 60.0, **more) -> torch.Tensor:
    asked = {"grow": 0.0, "soften": 0.0, "width": WIDTH, "height": 0, **more}
    return run("DiT360RegionMask", yaw=yaw, pitch=pitch, fov=fov, **asked)[0]
