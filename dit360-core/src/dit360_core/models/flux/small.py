"""FLUX.1's parts in miniature, with random weights, that tests and conformance kits can afford."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.models.flux.layers import policy_of
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.selection import Selection, select_layers


def small_autoencoder(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """An AutoencoderKL of FLUX.1's make with few channels.

    config: anything of AutoencoderKL's that is to differ.
    """
    with quiet():
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        made: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
            **{
                "block_out_channels": (8, 16, 16, 16),
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "up_block_types": ("UpDecoderBlock2D",) * 4,
                "layers_per_block": 1,
                "latent_channels": 16,
                "norm_num_groups": 4,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
                "scaling_factor": 0.36,
                "shift_factor": 0.11,
                **config,
            }
        )
        return made.to(dtype).eval().requires_grad_(False)


def small_transformer(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Any:
    """A FluxTransformer2DModel of 256 channels, one double and two single blocks, with outliers as in trained ones."""
    with quiet():
        from diffusers import FluxTransformer2DModel

        torch.manual_seed(seed)
        described: Any = FluxTransformer2DModel
        made = described(
            in_channels=64,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=64,
            num_attention_heads=4,
            joint_attention_dim=128,
            pooled_projection_dim=64,
            guidance_embeds=True,
            axes_dims_rope=(8, 28, 28),
        )
        enliven(made, gate=0.5)
        return made.to(dtype).eval().requires_grad_(False)


def enliven(transformer: Any, gate: float) -> None:
    """Gives a transformer of random weights what trained ones have: some channels of activations are twelve times as
    large as the others, and blocks add something to what they are given (``gate`` of their output)."""
    with torch.no_grad():
        for name, layer in transformer.named_modules():
            if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear")):
                # Shift, scale, gate, of the width each; twice over in double blocks, for attention and for the rest.
                width = layer.in_features
                for first in range(0, layer.out_features, 3 * width):
                    layer.bias[first + width : first + 2 * width : 97] += 11
                    layer.bias[first + 2 * width : first + 3 * width] += gate


def quantizable(transformer: torch.nn.Module) -> Selection:
    """The layers of a transformer that are quantized."""
    return select_layers(transformer, policy_of("transformer"))


def run(transformer: Any) -> torch.Tensor:
    """What a transformer makes of 128 random tokens and a prompt of 32; some channels are ten times as large."""
    generator = torch.Generator().manual_seed(1)
    config, device, dtype = transformer.config, transformer.device, transformer.dtype

    def random(*shape: int) -> torch.Tensor:
        x = torch.randn(*shape, generator=generator)
        x[:, ::53] *= 10
        return x.to(device, dtype)

    ids = torch.zeros(128, 3, device=device)
    ids[:, 2] = torch.arange(128)
    with torch.no_grad():
        out: torch.Tensor = transformer(
            hidden_states=random(1, 128, config.in_channels),
            encoder_hidden_states=random(1, 32, config.joint_attention_dim),
            pooled_projections=random(1, config.pooled_projection_dim),
            timestep=torch.full((1,), 0.5, device=device).to(dtype),
            guidance=torch.full((1,), 3.5, device=device),
            img_ids=ids,
            txt_ids=torch.zeros(32, 3, device=device),
            return_dict=False,
        )[0]
    return out
