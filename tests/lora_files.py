"""LoRA files in miniature, in the formats people have."""

import json

import torch
from safetensors.torch import save_file

LAYERS = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_k")
RANK = 4


def factors(dim=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(RANK, dim, generator=generator) * 0.1, torch.randn(dim, RANK, generator=generator) * 0.1)
        for name in LAYERS
    }


def write(folder, style, *, alpha=None, dim=32, layers=None):
    """A LoRA file as PEFT (with its adapter_config.json) or as diffusers writes it."""
    tensors = {}
    for name, (down, up) in factors(dim).items():
        name = (layers or {}).get(name, name)
        head, default = {
            "peft": ("base_model.model.", ""),
            "plain": ("", ""),
            "diffusers": ("transformer.", ""),
        }[style]
        tensors[f"{head}{name}.lora_A{default}.weight"] = down
        tensors[f"{head}{name}.lora_B{default}.weight"] = up
    file = folder / ("adapter_model.safetensors" if style == "peft" else "pytorch_lora_weights.safetensors")
    save_file(tensors, file)
    if alpha is not None:
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha, "r": RANK}))
    return file
