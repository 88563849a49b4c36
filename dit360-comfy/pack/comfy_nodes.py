"""ComfyUI's own nodes that the examples use, as far as they need them. A test compares them with a real ComfyUI."""

from __future__ import annotations

from typing import Any

from described import FILES


def _node(inputs: dict[str, dict[str, Any]], *outputs: str) -> dict[str, Any]:
    return {"inputs": {"required": inputs}, "outputs": [{"name": kind, "type": kind} for kind in outputs]}


def _choice(*choices: Any) -> dict[str, Any]:
    return {"type": "COMBO", "choices": list(choices)}


def _number(default: float) -> dict[str, Any]:
    return {"type": "INT" if isinstance(default, int) else "FLOAT", "default": default}


_MODEL, _CLIP, _LATENT = {"type": "MODEL"}, {"type": "CLIP"}, {"type": "LATENT"}
_CONDITIONING = {"type": "CONDITIONING"}

NODES: dict[str, dict[str, Any]] = {
    "UNETLoader": _node({"unet_name": _choice(FILES), "weight_dtype": _choice("default", "fp8_e4m3fn")}, "MODEL"),
    "DualCLIPLoader": {
        "inputs": {
            "required": {
                "clip_name1": _choice(FILES),
                "clip_name2": _choice(FILES),
                "type": _choice("sdxl", "sd3", "flux"),
            },
            "optional": {"device": _choice("default", "cpu")},
        },
        "outputs": [{"name": "CLIP", "type": "CLIP"}],
    },
    "VAELoader": _node({"vae_name": _choice(FILES)}, "VAE"),
    "ModelSamplingFlux": _node(
        {
            "model": _MODEL,
            "max_shift": _number(1.15),
            "base_shift": _number(0.5),
            "width": _number(1024),
            "height": _number(1024),
        },
        "MODEL",
    ),
    "T5TokenizerOptions": _node({"clip": _CLIP, "min_padding": _number(0), "min_length": _number(0)}, "CLIP"),
    "CLIPTextEncode": _node({"text": {"type": "STRING", "multiline": True}, "clip": _CLIP}, "CONDITIONING"),
    "FluxGuidance": _node({"conditioning": _CONDITIONING, "guidance": _number(3.5)}, "CONDITIONING"),
    "ConditioningZeroOut": _node({"conditioning": _CONDITIONING}, "CONDITIONING"),
    "EmptySD3LatentImage": _node(
        {"width": _number(1024), "height": _number(1024), "batch_size": _number(1)}, "LATENT"
    ),
    "KSampler": _node(
        {
            "model": _MODEL,
            "seed": {**_number(0), "control_after_generate": True},
            "steps": _number(20),
            "cfg": _number(8.0),
            "sampler_name": _choice("euler"),
            "scheduler": _choice("simple"),
            "positive": _CONDITIONING,
            "negative": _CONDITIONING,
            "latent_image": _LATENT,
            "denoise": _number(1.0),
        },
        "LATENT",
    ),
}  # fmt: skip
