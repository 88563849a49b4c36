"""Autoencoding on the sphere: convolutions that wrap in longitude, so that a picture has no seam by construction.

Above and below the poles the convolutions see zeros, as in training; to the left of column 0 they see the last column.
Nothing else in a diffusers AutoencoderKL depends on where a column is: normalization, attention and nearest-neighbour
upsampling are equivariant to a roll. So rolling latents by k columns rolls the picture by 8k pixels.
"""

from __future__ import annotations

import copy
import functools
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dit360_core.errors import ModelError
from dit360_core.sphere.vae.causal import is_causal_convolution
from dit360_core.sphere.vae.one_frame import one_frame

_SHARED = re.compile("^(_hf_hook|_non_persistent_buffers_set)$|_hooks(_|$)")


class LongitudeConv2d(nn.Conv2d):
    """A convolution that pads by wrapping in width and by zeros in height. ``margins``: left, right, top, bottom."""

    margins: tuple[int, int, int, int]

    # Not ``forward``: offloading hooks replace that on each instance, but they still come through here.
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x, rows = _margins(x, self.margins)
        return F.conv2d(x, weight, bias, self.stride, (rows, 0), self.dilation, self.groups)


class LongitudeFrame:
    """The same for a causal 3-D convolution and one frame. It replaces the convolution's own padding."""

    margins: tuple[int, int, int, int]
    weight: torch.Tensor
    bias: torch.Tensor | None

    def frame(self, x: torch.Tensor) -> torch.Tensor:
        x, rows = _margins(x, self.margins)
        return F.conv2d(x, self.weight[:, :, -1], self.bias, padding=(rows, 0))

    # As above: a hook may have kept diffusers' own ``forward``, which pads by nothing here and then comes through this.
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self.frame(x[:, :, 0]).unsqueeze(2)


def _margins(x: torch.Tensor, margins: tuple[int, int, int, int]) -> tuple[torch.Tensor, int]:
    """A picture with its margins, and rows of zeros above and below that are still to be added."""
    left, right, top, bottom = margins
    width = x.shape[-1]
    if max(left, right) > width:
        # Narrower than the margin: the columns repeat as often as they must.
        x = x.index_select(-1, torch.arange(-left, width + right, device=x.device) % width)
    elif left or right:
        x = torch.cat([x[..., width - left :], x, x[..., :right]], dim=-1)
    return (x, top) if top == bottom else (F.pad(x, (0, 0, top, bottom)), 0)


def circular_twin(vae: nn.Module) -> nn.Module:
    """A second view of an autoencoder that shares its weights and wraps in longitude; the original is untouched.

    Raises ModelError for layers whose wrapping is not known (padding modes other than zeros, transposed or 3-D
    convolutions), rather than leaving a seam.
    """
    # deepcopy returns what the memo already holds: module objects are new, tensors are the very same. So are offloading
    # hooks: they are given their module in each call, and they are chained to those of the other parts of a pipeline.
    # torch's lists of hooks are most of what there is to copy, a dozen for each module, and mostly empty.
    hooks = [held for module in vae.modules() for name, held in vars(module).items() if _SHARED.search(name)]
    shared: list[Any] = [*vae.parameters(), *vae.buffers(), *hooks]
    twin: Any = copy.deepcopy(vae, {id(thing): thing for thing in shared})
    # diffusers' own tiles would each be wrapped onto their own other edge.
    twin.use_tiling = False
    one_frame(twin)
    for name, module in twin.named_modules():
        if is_causal_convolution(module):
            _wrap_causal(name, module)
        elif isinstance(module, nn.Conv2d):
            _wrap_convolution(name, module)
        elif isinstance(module, nn.modules.conv._ConvNd):
            raise ModelError(f"The autoencoder's layer {name} is a {type(module).__name__}, which dit360 cannot wrap.")
    for module in twin.modules():
        _wrap_downsampling(module)
    return twin  # type: ignore[no-any-return]


def _wrap_convolution(name: str, conv: nn.Conv2d) -> None:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ModelError(
            f"The autoencoder's layer {name} pads by {conv.padding_mode!r}/{conv.padding!r}, which dit360 cannot wrap."
        )
    above, beside = int(conv.padding[0]), int(conv.padding[1])
    conv.__class__ = LongitudeConv2d
    conv.margins = (beside, beside, above, above)  # type: ignore[assignment]


@functools.cache
def _longitude_frame(made_of: Any) -> Any:
    return type("LongitudeConv3d", (LongitudeFrame, made_of), {})


def _wrap_causal(name: str, conv: Any) -> None:
    if conv.padding_mode != "zeros":
        raise ModelError(f"The autoencoder's layer {name} pads by {conv.padding_mode!r}, which dit360 cannot wrap.")
    left, right, top, bottom, *_ = conv._padding
    kind: Any = type(conv)
    conv.__class__ = _longitude_frame(kind)
    conv.margins, conv._padding = (left, right, top, bottom), (0,) * 6


def _wrap_downsampling(module: nn.Module) -> None:
    # diffusers' Downsample2D pads by one zero column on the right and one row below before a convolution without
    # padding. Any other value of its own ``padding`` skips that; the convolution then pads itself.
    conv: Any = getattr(module, "conv", None)
    if type(module).__name__ == "Downsample2D" and getattr(module, "padding", None) == 0 and conv is not None:
        module.padding = 1  # type: ignore[assignment]
        conv.margins = (0, 1, 0, 1)
    # AutoencoderKLQwenImage has a module for it.
    layers: Any = getattr(module, "resample", None)
    if type(module).__name__ == "QwenImageResample" and type(layers[0]) is nn.ZeroPad2d:
        layers[1].margins, layers[0].padding = layers[0].padding, (0, 0, 0, 0)
