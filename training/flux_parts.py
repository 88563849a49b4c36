# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""The pieces of FLUX that training and export share: the transformer's shape, packing, ids, the time shift."""

from __future__ import annotations

import math

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from dit360_core.pipeline.windowed import window_at
from dit360_core.sphere.grid import Grid
from dit360_core.sphere.windows import Windows
from torch import Tensor

from training.linear_encoder import LATENTS as CHANNELS
from training.text import WIDTH

NATIVE_ROWS = 16
"""Token rows of the native size, 256 pixels high."""


def build_transformer(
    double: int = 2, single: int = 6, heads: int = 6, channels: int = CHANNELS
) -> FluxTransformer2DModel:
    """A small FluxTransformer2DModel with guidance embedding; modulation and output start at zero (AdaLN-zero)."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * channels,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ("norm" in name.split(".")[-2:][0] or name == "proj_out"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler with FLUX.1-dev's settings."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096,
    )  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, 2h, 2w) to a grid of tokens (B, h, w, 4·C); a token is 2x2 latents, channel first."""
    b, c, height, width = latents.shape
    grid = latents.view(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(b, height // 2, width // 2, 4 * c)


def unpack(grid: Tensor) -> Tensor:
    """The inverse of `pack`: tokens (B, h, w, 4·C) to latents (B, C, 2h, 2w)."""
    b, h, w, c = grid.shape
    return grid.view(b, h, w, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, 2 * h, 2 * w)


def pad(grid: Tensor, columns: int = 1) -> Tensor:
    """Copied columns on each side: (B, h, w, C) to (B, h, w + 2·columns, C)."""
    return torch.cat((grid[:, :, grid.shape[2] - columns :], grid, grid[:, :, :columns]), dim=2)


def position_ids(h: int, w: int, device: str | torch.device = "cpu", padding: int = 1) -> Tensor:
    """Ids (h·(w + 2·padding), 3) of the padded grid: 0, row, column, where a copied column has its source's id.

    They name a place on the sphere: at the native size rows and columns are counted 0, 1, 2 … as in FLUX, a grid of
    another size has its tokens' centres where the native grid has the same directions. So what was learned at one
    size holds at another. They are made by what makes them for a picture.
    """
    return Grid(h, w, padding, NATIVE_ROWS / h).position_ids().to(device)


def window_ids(zoom: int, place: tuple[int, int], device: str | torch.device = "cpu") -> Tensor:
    """Ids (512, 3) of a window of the native size over a picture `zoom` times as wide, as larger pictures number them.

    place: (top row, left column) in tokens of that picture.
    """
    rows = NATIVE_ROWS * zoom
    windows = Windows(rows=rows, columns=2 * rows, height=NATIVE_ROWS, width=2 * NATIVE_ROWS)
    return window_at(windows, Grid(rows, 2 * rows, 0, 1 / zoom), place, "whole", 1 / zoom).position_ids().to(device)


def time_shift_mu(tokens: int) -> float:
    """mu of FLUX's time shift for a number of (padded) image tokens: 0.5 at 256, 1.15 at 4096, linear."""
    return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)


def shift_sigma(sigma: Tensor, mu: float) -> Tensor:
    """FLUX's exponential time shift of sigma in (0, 1]."""
    return math.exp(mu) / (math.exp(mu) + 1 / sigma - 1)


def schedule(steps: int, tokens: int) -> Tensor:
    """The shifted sigmas (steps + 1,) from 1 down to exactly 0."""
    plain = torch.linspace(1, 1 / steps, steps)
    return torch.cat((shift_sigma(plain, time_shift_mu(tokens)), torch.zeros(1)))
