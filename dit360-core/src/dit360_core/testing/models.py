"""Real models in miniature, with random weights, that tests can afford."""

from __future__ import annotations

from typing import Any

import torch


def small_autoencoder(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """An AutoencoderKL of FLUX.1's make with few channels. config: anything of AutoencoderKL's that is to differ."""
    from dit360_core.models.weights.quiet import quiet

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
    from dit360_core.models.weights.quiet import quiet

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
