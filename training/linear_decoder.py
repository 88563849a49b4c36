# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Starts the autoencoder's decoder from the best linear decoder that its layers can express.

With zero residual branches the decoder is conv_in, three times (nearest upsampling, 3x3 convolution), and a read-out.
Each of these convolutions is fitted by least squares to the detail of its scale (leading components of 4x4 patches,
then 2x2 patches, then pixels), while the latents are carried along; then all of them together by gradient descent.
That matters: nearest upsampling gives the four pixels of a block one value, and only layers that work together can tell
them apart again (fitted one by one they keep 30 % of the power of 32 to 64 cycles, together 62 %). Colours are right
before any training, and the group norms, which remove a picture's overall level from what passes them, only touch the
residual branches: the last one is held by large constant channels as in `linear_encoder`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training.data import to_float
from training.linear_encoder import LATENTS, as_convolution, blocks, silence_residuals

DETAIL = 24
"""Components of 4x4 patches that the first fitted layer estimates."""
CONSTANT = 10.0
_ROWS = 60_000


def _neighbours(x: Tensor) -> Tensor:
    """3x3 neighbourhoods (B, H, W, 9·C) of x (B, C, H, W), columns wrapping and zeros beyond the poles."""
    padded = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
    return F.unfold(padded, 3).unflatten(-1, x.shape[-2:]).movedim(1, -1)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _fit(inputs: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The 3x3 convolution, kernel (O, C, 3, 3) and bias (O,), that best maps inputs (B, C, H, W) to targets."""
    generator = torch.Generator().manual_seed(0)
    rows, wanted = [], []
    for x, y in zip(inputs, targets, strict=True):
        seen, aim = _neighbours(x).flatten(0, 2), y.movedim(1, -1).flatten(0, 2)
        chosen = torch.randperm(len(seen), generator=generator)[: _ROWS // len(inputs)]
        rows.append(seen[chosen].double())
        wanted.append(aim[chosen].double())
    a, b = torch.cat(rows), torch.cat(wanted)
    a = torch.cat((a, torch.ones(len(a), 1, dtype=a.dtype)), dim=1)
    ridge = 1e-4 * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    solution = torch.linalg.solve(a.T @ a + ridge, a.T @ b).T.float()
    return solution[:, :-1].reshape(len(solution), -1, 3, 3), solution[:, -1]


def _apply(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bhwk,ok->bohw", _neighbours(x), kernel.flatten(1)) + bias.view(-1, 1, 1)


def _put(convolution: nn.Conv2d, first: int, kernel: Tensor, bias: Tensor | None = None) -> None:
    """Sets output channels from `first` on to `kernel` (O, C, k, k) and `bias`; inputs beyond C count nothing."""
    rows = slice(first, first + kernel.shape[0])
    convolution.weight[rows] = 0
    convolution.weight[rows, : kernel.shape[1]] = kernel
    convolution.bias[rows] = 0 if bias is None else bias


def _copy(out: list[int], width: int, size: int) -> Tensor:
    """A kernel (len(out), width, size, size) that copies the named input channels."""
    kernel = torch.zeros(len(out), width, size, size)
    kernel[range(len(out)), out, size // 2, size // 2] = 1
    return kernel


@torch.no_grad()
def initialize(vae: AutoencoderKL, pictures: list[Tensor]) -> AutoencoderKL:
    """Fits the decoder of `vae`, whose encoder is ready, to pictures, each (B, 3, H, W) in [-1, 1]; in place."""
    decoder = vae.decoder
    ups = decoder.up_blocks
    components = vae.encoder.down_blocks[1].downsamplers[0].conv.weight[:DETAIL, :12, :2, :2].reshape(DETAIL, 48)
    silence_residuals(decoder)
    codes = [vae.encode(p).latent_dist.mode() for p in pictures]
    _put(decoder.conv_in, 0, _copy(list(range(LATENTS)), LATENTS, 3))

    inputs = [_double(z) for z in codes]
    detail = [torch.einsum("oc,bchw->bohw", components, blocks(blocks(p))) for p in pictures]
    kernel, bias = _fit(inputs, detail)
    _put(ups[0].upsamplers[0].conv, 0, kernel, bias)
    _put(ups[0].upsamplers[0].conv, DETAIL, _copy(list(range(LATENTS)), LATENTS, 3))
    width = DETAIL + LATENTS
    _put(ups[1].resnets[0].conv_shortcut, 0, _copy(list(range(width)), width, 1))

    inputs = [_double(torch.cat((_apply(x, kernel, bias), x), dim=1)) for x in inputs]
    kernel, bias = _fit(inputs, [blocks(p) for p in pictures])
    _put(ups[1].upsamplers[0].conv, 0, kernel, bias)
    carried = min(width, ups[1].upsamplers[0].conv.out_channels - 12)
    _put(ups[1].upsamplers[0].conv, 12, _copy(list(range(carried)), width, 3))
    kept = [*range(24), *range(12 + DETAIL, 20 + DETAIL)]
    _put(ups[2].resnets[0].conv_shortcut, 0, _copy(kept, 12 + carried, 1))

    inputs = [_double(torch.cat((_apply(x, kernel, bias), x), dim=1)[:, kept]) for x in inputs]
    kernel, bias = _fit(inputs, pictures)
    _put(ups[2].upsamplers[0].conv, 0, kernel, bias)
    _put(ups[2].upsamplers[0].conv, 3, _copy(list(range(12)), 12, 3))
    _read_out(decoder)
    return vae


def refine(vae: AutoencoderKL, pictures: Tensor, steps: int = 300, peak: float = 2e-3) -> None:
    """Trains the chain of convolutions that `initialize` made, all of its layers together; in place.

    pictures: bytes (N, 256, 512, 3). peak: highest learning rate of Adam.
    """
    ups = vae.decoder.up_blocks
    layers = (
        vae.decoder.conv_in, ups[0].upsamplers[0].conv, ups[1].resnets[0].conv_shortcut, ups[1].upsamplers[0].conv,
        ups[2].resnets[0].conv_shortcut, ups[2].upsamplers[0].conv,
    )  # fmt: skip
    weights = [weight for layer in layers for weight in layer.parameters()]
    kernel, bias = as_convolution(vae)
    optimizer = torch.optim.Adam(weights, lr=peak)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 50) * (1 - step / steps)
        chosen = pictures[torch.randint(len(pictures), (2,))]
        x = to_float(chosen).roll(int(torch.randint(pictures.shape[2], ())), -1)
        with torch.no_grad():
            latents = F.conv2d(x, kernel, bias, stride=8)
        error = _chain(vae.decoder, latents) - x
        across, down = error - error.roll(1, -1), error.diff(dim=-2)
        loss = (error**2).mean() + 2 * (across**2).mean() + 2 * (down**2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def _chain(decoder: nn.Module, x: Tensor) -> Tensor:
    """What the decoder does while its residual branches are zero: latents (B, C, h, w) to (B, 3, 8·h, 8·w)."""
    ups = decoder.up_blocks
    x = ups[0].upsamplers[0].conv(_double(decoder.conv_in(x)))
    x = ups[1].upsamplers[0].conv(_double(ups[1].resnets[0].conv_shortcut(x)))
    last = ups[2].upsamplers[0].conv
    padded = F.pad(F.pad(_double(ups[2].resnets[0].conv_shortcut(x)), (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
    return F.conv2d(padded, last.weight[:3], last.bias[:3])


def _read_out(decoder: nn.Module) -> None:
    """Three groups of the last norm hold one colour each, with both signs and two constants; the fourth is free."""
    shortcut, norm, out = decoder.up_blocks[3].resnets[0].conv_shortcut, decoder.conv_norm_out, decoder.conv_out
    size = shortcut.out_channels // norm.num_groups
    out.weight.mul_(0.05)
    out.bias.zero_()
    for colour in range(3):
        first = colour * size
        rows = slice(first, first + size)
        shortcut.weight[rows] = 0
        shortcut.weight[first, colour], shortcut.weight[first + 1, colour] = 1, -1
        shortcut.bias[rows] = torch.tensor([0.0, 0.0, CONSTANT, -CONSTANT] + [0.0] * (size - 4))
        out.weight[:, rows] = 0
        spread = CONSTANT * (2 / size) ** 0.5
        out.weight[colour, first, 1, 1], out.weight[colour, first + 1, 1, 1] = spread, -spread
