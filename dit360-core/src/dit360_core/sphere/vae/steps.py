"""What an autoencoder is taken apart into: plain steps, each with its modules and its sizes, and nothing hidden.

Steps are facts about modules and touch no weights, so a model on the meta device can be taken apart for planning. An
autoencoder of any make that tells its own steps (:class:`TellsSteps`) is decoded by them, in one piece or in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import attrs
import torch
import torch.nn.functional as F
from torch import nn

from dit360_core.errors import ModelError

POINTWISE = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish)
"""Activations that look at one number at a time."""
HALF = (torch.bfloat16, torch.float16)


class CannotTakeApart(ModelError):
    """An autoencoder has a part whose computation is not known here."""


@attrs.frozen(kw_only=True, eq=False)
class PixelNorm:
    """A normalization of each pixel by itself, which therefore needs no moments of the whole picture.

    module: that holds its weights.
    apply: makes of a band ``(1, C, r, W)`` another of the same shape and dtype. It reads the module's weights anew in
    each call and calls no module, or an offloading hook would take them away.
    """

    module: nn.Module
    apply: Callable[[torch.Tensor], torch.Tensor]


Norm = nn.GroupNorm | PixelNorm


@attrs.frozen(kw_only=True, eq=False)
class Convolution:
    """Normalize, activate, enlarge, pad, convolve, limit: each but the convolution may be missing.

    conv: 2-D and square; or 3-D, of which the last temporal slice is used: all that a single frame sees of one that is
    causal. Its own padding is not looked at.
    margins: left, right, top, bottom; columns beyond the edge are those of the other side, rows are zeros.
    upsample: nearest neighbour by 2 before the convolution, which is 3×3 then with margins of 1.
    limits: the least and the largest number of the result, which is cut off there; None: none.
    """

    conv: nn.Conv2d | nn.Conv3d
    norm: Norm | None = None
    act: nn.Module | None = None
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    upsample: bool = False
    limits: tuple[float, float] | None = None

    @property
    def weight(self) -> torch.Tensor:
        """``(out, in, k, k)``."""
        weight: torch.Tensor = self.conv.weight
        return weight if weight.ndim == 4 else weight[:, :, -1]

    @property
    def channels_in(self) -> int:
        return self.conv.in_channels

    @property
    def channels_out(self) -> int:
        return self.conv.out_channels

    @property
    def kernel(self) -> int:
        return int(self.conv.kernel_size[-1])

    @property
    def stride(self) -> int:
        return int(self.conv.stride[-1])

    def size_out(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result, from those of the input."""
        grown = 2 if self.upsample else 1
        left, right, top, bottom = self.margins
        rows = (grown * height + top + bottom - self.kernel) // self.stride + 1
        columns = (grown * width + left + right - self.kernel) // self.stride + 1
        return rows, columns

    @property
    def multiplications(self) -> int:
        """Multiply-adds for one output pixel; an upsampling one needs only 2×2 taps of the small input."""
        taps = 4 if self.upsample else self.kernel**2
        return taps * self.channels_in * self.channels_out


@attrs.frozen(kw_only=True, eq=False)
class Residual:
    """``(shortcut(x) + second(first(x))) / scale``. shortcut None: x itself."""

    first: Convolution
    second: Convolution
    shortcut: Convolution | None = None
    scale: float = 1.0


@attrs.frozen(kw_only=True, eq=False)
class Projection:
    """A linear map of each pixel's channels.

    layer: ``nn.Linear``, or a 1×1 convolution.
    part: which of how many equal parts of the layer's outputs, such as (1, 3) for the keys of a joint one.
    """

    layer: nn.Linear | nn.Conv2d
    part: tuple[int, int] = (0, 1)

    @property
    def channels_in(self) -> int:
        return int(self.layer.weight.shape[1])

    @property
    def channels_out(self) -> int:
        return int(self.layer.weight.shape[0]) // self.part[1]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(N, in)`` → ``(N, out)``. Not by calling the layer, whose hook would bring its weights a second time."""
        rows = slice(self.part[0] * self.channels_out, (self.part[0] + 1) * self.channels_out)
        bias = self.layer.bias
        return F.linear(tokens, self.layer.weight.flatten(1)[rows], None if bias is None else bias[rows])


@attrs.frozen(kw_only=True, eq=False)
class Attention:
    """Self-attention of all pixels: ``(x + out(attend(query, key, value of norm(x)))) / scale``.

    Scores are scaled by one over the root of a head's channels.
    """

    norm: Norm
    query: Projection
    key: Projection
    value: Projection
    out: Projection
    heads: int = 1
    scale: float = 1.0

    @property
    def channels(self) -> int:
        return self.query.channels_in


Step = Convolution | Residual | Attention


@runtime_checkable
class TellsSteps(Protocol):
    """An autoencoder (an ``nn.Module``) that says what it does, and is run by that instead of being called.

    Decoding and encoding it, circular, in one piece or in exact tiles, with predicted memory, follows from its steps.
    They are asked for on the meta device, too. What they use is compared with nothing else: a parameter that no step
    names is not used (:func:`all_claimed` finds such).
    """

    def decoder_steps(self) -> tuple[Step, ...]:
        """Latents to pixels of about −1 … 1; the last one is a :class:`Convolution`."""
        ...

    def encoder_steps(self) -> tuple[Step, ...]:
        """Pixels to latents, or to twice as many channels whose first half is the mean of the latents; the last one is
        a :class:`Convolution`."""
        ...


def rms_norm(module: nn.Module, weight: str = "weight", bias: str = "", eps: float = 1e-12) -> PixelNorm:
    """Root-mean-square normalization over channels: x / max(‖x‖, eps) · √C · weight + bias.

    weight, bias: names of the module's parameters, of C numbers in any shape; empty: none. As in diffusers'
    ``QwenImageRMS_norm``, half precision is normalized in float32 and rounded before it is scaled.
    """

    def apply(band: torch.Tensor) -> torch.Tensor:
        wide = band.float() if band.dtype in HALF else band
        out = F.normalize(wide, dim=1, eps=eps).to(band.dtype).mul_(math.sqrt(band.shape[1]))
        if weight:
            out *= getattr(module, weight).reshape(-1, 1, 1)
        if bias:
            out += getattr(module, bias).reshape(-1, 1, 1)
        return out

    return PixelNorm(module=module, apply=apply)


def modules_of(step: Step) -> list[nn.Module]:
    """The modules whose weights a step uses."""
    if isinstance(step, Convolution):
        return [step.conv, *([_module(step.norm)] if step.norm is not None else [])]
    if isinstance(step, Residual):
        inner = [step.first, step.second, *([step.shortcut] if step.shortcut is not None else [])]
        return [module for convolution in inner for module in modules_of(convolution)]
    layers = (part.layer for part in (step.query, step.key, step.value, step.out))
    return [_module(step.norm), *layers]


def norms_of(step: Step) -> list[Norm]:
    """The normalizations of a step."""
    if isinstance(step, Residual):
        inner = [step.first, step.second, *([step.shortcut] if step.shortcut is not None else [])]
        return [norm for convolution in inner for norm in norms_of(convolution)]
    return [step.norm] if step.norm is not None else []


def channels_in(step: Step) -> int:
    """Channels that a step takes."""
    if isinstance(step, Attention):
        return step.channels
    return step.first.channels_in if isinstance(step, Residual) else step.channels_in


def channels_out(step: Step) -> int:
    """Channels that a step gives."""
    if isinstance(step, Attention):
        return step.channels
    return step.second.channels_out if isinstance(step, Residual) else step.channels_out


def all_claimed(steps: Iterable[Step], halves: Iterable[nn.Module | None], unused: str = "") -> tuple[Step, ...]:
    """The steps, if between them they hold every parameter of the halves.

    halves: the modules that they stand for, such as a decoder and a convolution before it.
    unused: a name; what lies in modules of that name is not used, and need not be.

    Raises CannotTakeApart, also for modules with hooks, which would not run.
    """
    steps = tuple(steps)
    mine = {id(p) for step in steps for module in modules_of(step) for p in module.parameters(recurse=False)}
    for half in halves:
        if half is None:
            continue
        check_hooks(half.modules())
        for name, parameter in half.named_parameters():
            if id(parameter) not in mine and not (unused and unused in name.split(".")):
                raise CannotTakeApart(f"its parameter {name} has no known use")
    return steps


def check_hooks(modules: Iterable[nn.Module]) -> None:
    """Raises CannotTakeApart for modules with hooks, which would not run."""
    for module in modules:
        # accelerate's only bring weights, which is seen to elsewhere.
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_diffusers_hook"):
            raise CannotTakeApart(f"its {type(module).__name__} has hooks, which would not run")


def told_steps(vae: TellsSteps, half: str) -> tuple[Step, ...]:
    """Steps that an autoencoder tells of a half (``decoder``, ``encoder``). Raises CannotTakeApart if they are none."""
    name = f"{half}_steps"
    steps = tuple(getattr(vae, name)())
    whose = f"{type(vae).__name__}.{name}"
    for step in steps:
        if not isinstance(step, Convolution | Residual | Attention):
            raise CannotTakeApart(f"{whose} tells a {type(step).__name__}, which is no step")
    if not steps or not isinstance(steps[-1], Convolution):
        raise CannotTakeApart(f"{whose} does not end with a Convolution")
    check_hooks(module for step in steps for module in modules_of(step))
    return steps


def _module(norm: Norm) -> nn.Module:
    return norm.module if isinstance(norm, PixelNorm) else norm
