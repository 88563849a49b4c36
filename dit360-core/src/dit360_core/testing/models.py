"""Real models in miniature, with random weights, that tests can afford."""

from __future__ import annotations

from typing import Any

import torch


def small_autoencoder(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """An AutoencoderKL of FLUX.1's make with few channels. config: anything of AutoencoderKL's that is to differ."""
    from dit360_core.flux.quiet import quiet

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
