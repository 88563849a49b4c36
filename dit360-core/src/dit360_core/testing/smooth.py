"""Pictures and an autoencoder with which tiles are as the whole, so that a small gain or a seam shows in any tiling."""

from __future__ import annotations

from typing import Any

import torch


def smooth(channels: int, rows: int, columns: int) -> torch.Tensor:
    """``(1, channels, rows, columns)`` of standard deviation 1, that wraps and has about eight waves across."""
    generator = torch.Generator().manual_seed(2)
    waves = torch.fft.rfft2(torch.randn(1, channels, rows, columns, generator=generator))
    across, down = torch.fft.rfftfreq(columns) * columns, torch.fft.fftfreq(rows) * columns
    made: torch.Tensor = torch.fft.irfft2(waves * torch.exp(-(across**2 + down[:, None] ** 2) / 64), s=(rows, columns))
    return made.div_(made.std())


def steady(vae: Any, latents: torch.Tensor, pixels: torch.Tensor) -> Any:
    """An AutoencoderKL, changed: its norms take mean and spread once, from these, and its attention adds nothing.

    So every pixel depends on what is near it alone, and not on the tile that it is decoded in.
    """
    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.GroupNorm:
                setattr(parent, name, _Steady(child))
            elif hasattr(child, "to_out"):
                for weight in child.to_out.parameters():
                    weight.data.zero_()
    with torch.no_grad():
        vae.decode(latents)
        vae.encode(pixels)
    return vae


class _Steady(torch.nn.GroupNorm):
    """A norm of groups with the mean and spread of the first that it sees."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.mean: torch.Tensor | None = None
        self.spread: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mean is None or self.spread is None:
            groups = x.transpose(0, 1).reshape(self.num_groups, -1)
            size = self.num_channels // self.num_groups
            self.mean, self.spread = (s.repeat_interleave(size) for s in (groups.mean(1), groups.std(1) + self.eps))
        column = (slice(None), *(None,) * (x.dim() - 2))
        return (x - self.mean[column]) / self.spread[column] * self.weight[column] + self.bias[column]
