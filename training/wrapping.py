# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Convolutions that see longitude as a circle, for the autoencoder's training and use.

Width is padded with the columns from the other side, height with zeros as before. The weights are those of the
plain convolutions, so a wrapped autoencoder is saved and loaded as a plain `AutoencoderKL`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CircularConv2d(nn.Conv2d):
    """A padded convolution whose columns wrap: (B, C, H, W) -> (B, C', H', W')."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = (int(p) for p in self.padding)
        wrapped = F.pad(input, (columns, columns, 0, 0), mode="circular")
        wrapped = F.pad(wrapped, (0, 0, rows, rows))
        return F.conv2d(wrapped, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class CircularDownConv2d(nn.Conv2d):
    """The encoder's strided convolution: diffusers adds a zero column on the right; column 0 takes its place."""

    def forward(self, input: Tensor) -> Tensor:
        wrapped = torch.cat((input[..., :-1], input[..., :1]), dim=-1)
        return F.conv2d(wrapped, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def wrap_longitude(vae: nn.Module) -> nn.Module:
    """Makes every padded convolution of an `AutoencoderKL` circular in width, in place; returns it."""
    for module in vae.modules():
        if type(module) is not nn.Conv2d:
            continue
        if module.stride == (2, 2) and module.padding == (0, 0):
            module.__class__ = CircularDownConv2d
        elif module.padding != (0, 0):
            module.__class__ = CircularConv2d
    return vae
