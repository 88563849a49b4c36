"""FLUX-shaped models of any size with random weights, as complete folders: what CPUs can be measured with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from dit360_core.models.flux.small import enliven
from dit360_core.models.weights.quiet import quiet
from dit360_core.plugins.registry import default_registry

SIZES: dict[str, dict[str, Any]] = {
    # heads of 128 channels, double and single blocks, T5's width and layers, the autoencoder's narrowest channels
    "narrow": {"heads": 4, "blocks": (2, 4), "t5": (512, 4), "vae": 32},
    "middle": {"heads": 8, "blocks": (2, 4), "t5": (1024, 6), "vae": 64},
    "wide": {"heads": 24, "blocks": (1, 1), "t5": (1024, 4), "vae": 128},
}
"""``wide`` has FLUX.1-dev's own widths and autoencoder, and one block of each kind."""


def make_model(folder: Path, size: str) -> Path:
    """A folder that ``dit360.load`` takes, with the embedded model's tokenizers."""
    with quiet():
        from diffusers import AutoencoderKL, FluxTransformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

        about = SIZES[size]
        tiny = Path(default_registry().find("model", "tiny")[0].offer.base)
        if (folder / "model_index.json").is_file():
            return folder
        torch.manual_seed(0)
        width, layers = about["t5"]
        double, single = about["blocks"]
        channels = about["vae"]
        clip = json.loads((tiny / "text_encoder" / "config.json").read_text())
        t5 = json.loads((tiny / "text_encoder_2" / "config.json").read_text())
        transformer = FluxTransformer2DModel(
            num_layers=double,
            num_single_layers=single,
            num_attention_heads=about["heads"],
            joint_attention_dim=width,
            pooled_projection_dim=clip["hidden_size"],
            guidance_embeds=True,
        )
        enliven(transformer, gate=0.5)
        parts = {
            "transformer": transformer,
            "vae": AutoencoderKL(
                block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=16,
                norm_num_groups=32,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)),
            "text_encoder_2": T5EncoderModel(
                T5Config(**{**t5, "d_model": width, "d_ff": 2 * width, "num_layers": layers, "num_heads": width // 64})
            ),
        }
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        for name in ("tokenizer", "tokenizer_2", "scheduler"):
            shutil.copytree(tiny / name, folder / name)
        shutil.copyfile(tiny / "model_index.json", folder / "model_index.json")
    return folder
