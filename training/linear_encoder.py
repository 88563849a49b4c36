# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Gives the autoencoder's encoder the weights of a principal component analysis of 8x8 pixel patches.

The encoder is a deep network, but with its residual branches at zero it is a chain of linear maps: three strided
convolutions and three 1x1 shortcuts. Each stage gathers 2x2 blocks and keeps the leading components, the last one
those of largest variance. The final SiLU is undone by feeding it every component with both signs
(silu(x) - silu(-x) = x), and the final group norm by two large constant channels in each group, which fix its
standard deviation. The latents are therefore a (nearly) linear, smooth code that needs no training and never
changes, so decoder and transformer can be trained independently of each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

LATENTS = 32
"""Channels. Sixteen keep 86 and 56 % of the power of 32 to 64 and of 64 to 96 cycles, 32 keep 98 and 81 %."""
CONSTANT = 40.0
"""Value of the constant channels; far above the components' own standard deviation."""
WHITENING = 0.6
"""Exponent: 0 leaves the components' variances, 1 makes them equal."""


def blocks(x: Tensor) -> Tensor:
    """2x2 blocks to channels, (B, C, H, W) -> (B, 4·C, H/2, W/2), channel-major."""
    return F.pixel_unshuffle(x, 2)


def leading(x: Tensor, count: int) -> Tensor:
    """The `count` directions (count, C) of largest second moment of x (B, C, H, W)."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1]).double()
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return vectors.flip(1)[:, :count].T.float()


@torch.no_grad()
def initialize(vae: AutoencoderKL, pictures: list[Tensor]) -> AutoencoderKL:
    """Sets the encoder of `vae` (made with 4 norm groups) from pictures, each (B, 3, H, W) in [-1, 1]; in place."""
    second = torch.cat([blocks(blocks(p)).movedim(1, -1).reshape(-1, 48) for p in pictures])
    p2 = leading(second.T[None, :, :, None], 32)
    halves = [torch.einsum("oc,bchw->bohw", p2, blocks(blocks(p))) for p in pictures]
    third = torch.cat([blocks(x).movedim(1, -1).reshape(-1, 128) for x in halves])
    p3 = leading(third.T[None, :, :, None], 64)
    code = third @ p3.T
    mean = code.mean(0)
    centred = (code - mean).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    deviation = values.flip(0)[:LATENTS].sqrt().float()
    components = vectors.flip(1)[:, :LATENTS].T.float() * (deviation**-WHITENING).unsqueeze(1)
    components = components / (deviation ** (2 - 2 * WHITENING)).mean().sqrt()
    assign(vae, p2, p3, components, -(components @ mean))
    return vae


@torch.no_grad()
def gains(vae: AutoencoderKL) -> Tensor:
    """How much each latent (LATENTS,) changes a picture: the squared change of its pixels by one of latent squared.

    The components are orthogonal, so that it is the inverse square of their length.
    """
    _, _, components, _ = maps(vae)
    return (1 / components.double().square().sum(1)).float()


@torch.no_grad()
def assign(vae: AutoencoderKL, p2: Tensor, p3: Tensor, components: Tensor, bias: Tensor) -> None:
    """Writes the linear maps into the layers of `vae`'s encoder.

    p2 (32, 48) and p3 (64, 128) are the components of 4x4 and of 8x8 patches; components (LATENTS, 64) and bias
    (LATENTS,) make the latents of a code of 64.
    """
    encoder = vae.encoder
    silence_residuals(encoder)
    _assign(encoder.conv_in, _centre(torch.eye(3)))
    _assign(encoder.down_blocks[0].downsamplers[0].conv, _strided(torch.eye(12), 3))
    _assign(encoder.down_blocks[1].resnets[0].conv_shortcut, torch.eye(12)[:, :, None, None])
    _assign(encoder.down_blocks[1].downsamplers[0].conv, _strided(p2, 12))
    _assign(encoder.down_blocks[2].resnets[0].conv_shortcut, torch.eye(32)[:, :, None, None])
    _assign(encoder.down_blocks[2].downsamplers[0].conv, _strided(p3, 32))
    _read_out(encoder, components, bias)


def silence_residuals(encoder: nn.Module) -> None:
    """Zero output for every residual branch and for the attention: each block is its shortcut."""
    for module in encoder.modules():
        if type(module).__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        if type(module).__name__ == "Attention":
            nn.init.zeros_(module.to_out[0].weight)
            nn.init.zeros_(module.to_out[0].bias)


def _assign(convolution: nn.Conv2d, weight: Tensor) -> None:
    """Puts `weight` into the first channels of a convolution whose other weights become zero."""
    convolution.weight.zero_()
    convolution.bias.zero_()
    out, into, rows, columns = weight.shape
    convolution.weight[:out, :into, :rows, :columns] = weight


def _centre(matrix: Tensor) -> Tensor:
    """A 3x3 kernel that applies `matrix` (out, in) to the pixel itself."""
    kernel = torch.zeros(*matrix.shape, 3, 3)
    kernel[..., 1, 1] = matrix
    return kernel


def _strided(matrix: Tensor, channels: int) -> Tensor:
    """A 3x3 kernel for the strided convolution that applies `matrix` (out, 4·channels) to each 2x2 block."""
    kernel = torch.zeros(matrix.shape[0], channels, 3, 3)
    kernel[..., :2, :2] = matrix.view(-1, channels, 2, 2)
    return kernel


def _read_out(encoder: nn.Module, components: Tensor, bias: Tensor) -> None:
    """The last shortcut makes both signs of every component and the constants; the output convolution joins them."""
    shortcut, norm, out = encoder.down_blocks[3].resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out
    for convolution in (shortcut, out):
        convolution.weight.zero_()
        convolution.bias.zero_()
    width, groups = shortcut.out_channels, norm.num_groups
    size, each = width // groups, LATENTS // groups
    norm.weight.fill_(1)
    norm.bias.zero_()
    spread = CONSTANT * (2 / size) ** 0.5
    for number in range(LATENTS):
        group, place = divmod(number, each)
        plus, minus = group * size + 2 * place, group * size + 2 * place + 1
        for channel, sign in ((plus, 1.0), (minus, -1.0)):
            shortcut.weight[channel, :, 0, 0] = sign * components[number]
            shortcut.bias[channel] = sign * bias[number]
            out.weight[number, channel, 1, 1] = sign * spread
    for group in range(groups):
        shortcut.bias[(group + 1) * size - 1] = CONSTANT
        shortcut.bias[(group + 1) * size - 2] = -CONSTANT
    out.bias[LATENTS:] = -9.0


@torch.no_grad()
def as_convolution(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """The untouched encoder as one convolution of stride 8: kernel (LATENTS, 3, 8, 8) and bias (LATENTS,).

    A hundred times faster than the network, and equal to it up to the final norm's small change of scale.
    """
    p2, p3, components, bias = maps(vae)
    patches = torch.eye(192).view(192, 3, 8, 8)
    codes = code(patches, p2, p3).flatten(1) @ components.T
    return codes.T.reshape(-1, 3, 8, 8), bias


def maps(vae: AutoencoderKL) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `assign` wrote: p2 (32, 48), p3 (64, 128), components (C, 64), bias (C,); C are the latents of `vae`."""
    encoder, latents = vae.encoder, vae.config.latent_channels
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut
    size, each = shortcut.out_channels // encoder.conv_norm_out.num_groups, latents // encoder.conv_norm_out.num_groups
    plus = [number // each * size + 2 * (number % each) for number in range(latents)]
    p2 = encoder.down_blocks[1].downsamplers[0].conv.weight[:32, :12, :2, :2].reshape(32, 48)
    p3 = encoder.down_blocks[2].downsamplers[0].conv.weight[:64, :32, :2, :2].reshape(64, 128)
    return p2, p3, shortcut.weight[plus, :64, 0, 0], shortcut.bias[plus]


def code(pictures: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """The 64 components (B, h / 8, w / 8, 64) of each 8x8 patch of pictures (B, 3, h, w)."""
    halves = torch.einsum("oc,bchw->bohw", p2, blocks(blocks(pictures)))
    return blocks(halves).movedim(1, -1) @ p3.T
