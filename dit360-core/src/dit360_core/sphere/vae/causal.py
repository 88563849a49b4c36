"""diffusers' AutoencoderKLQwenImage taken apart for one frame, where its causal 3-D convolutions are 2-D ones.

Before the first frame such a convolution sees zeros, so of its kernel only the last temporal slice meets anything; and
what mixes frames (``time_conv``) is not called before the second one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from torch import nn

from dit360_core.sphere.vae.steps import (
    POINTWISE,
    Attention,
    CannotTakeApart,
    Convolution,
    PixelNorm,
    Projection,
    Residual,
    Step,
    all_claimed,
    rms_norm,
)

CLASS = "AutoencoderKLQwenImage"
CONVOLUTION = "QwenImageCausalConv3d"
TIME = "time_conv"
"""The name of what mixes frames."""
_RANGE = (-1.0, 1.0)
"""diffusers cuts off what this autoencoder decodes."""


def is_causal(vae: Any) -> bool:
    """Whether an autoencoder is diffusers' AutoencoderKLQwenImage, or a class made of it."""
    return any(cls.__name__ == CLASS for cls in type(vae).__mro__)


def is_causal_convolution(module: nn.Module) -> bool:
    """Whether a module is its convolution, or a class made of it."""
    return any(cls.__name__ == CONVOLUTION for cls in type(module).__mro__)


def decoder_steps(vae: Any) -> tuple[Step, ...]:
    """Latents to pixels. Raises CannotTakeApart."""
    half = _half(vae, "decoder", "QwenImageDecoder3d")
    blocks = [step for block in half.up_blocks for step in _up_block(block)]
    head = attrs.evolve(_head(half), limits=_RANGE)
    steps = [_plain(vae.post_quant_conv), _plain(half.conv_in), *_middle(half.mid_block), *blocks, head]
    return all_claimed(steps, [half, vae.post_quant_conv], unused=TIME)


def encoder_steps(vae: Any) -> tuple[Step, ...]:
    """Pixels to the moments of the latents. Raises CannotTakeApart."""
    half = _half(vae, "encoder", "QwenImageEncoder3d")
    blocks = [_layer(block) for block in half.down_blocks]
    steps = [_plain(half.conv_in), *blocks, *_middle(half.mid_block), _head(half), _plain(vae.quant_conv)]
    return all_claimed(steps, [half, vae.quant_conv], unused=TIME)


def _half(vae: Any, name: str, kind: str) -> Any:
    half = getattr(vae, name)
    if type(half).__name__ != kind:
        raise CannotTakeApart(f"it has a {type(half).__name__} where a {kind} is expected")
    return half


def _up_block(block: Any) -> Iterator[Step]:
    if type(block).__name__ != "QwenImageUpBlock":
        raise CannotTakeApart(f"it has a {type(block).__name__} where a QwenImageUpBlock is expected")
    for layer in (*block.resnets, *(block.upsamplers or ())):
        yield _layer(layer)


def _layer(module: Any) -> Step:
    kinds: dict[str, Callable[[Any], Step]] = {
        "QwenImageResidualBlock": _residual,
        "QwenImageAttentionBlock": _attention,
        "QwenImageResample": _resize,
    }
    kind = type(module).__name__
    if kind not in kinds:
        raise CannotTakeApart(f"it has a {kind} where one of {', '.join(kinds)} is expected")
    return kinds[kind](module)


def _middle(block: Any) -> Iterator[Step]:
    if type(block).__name__ != "QwenImageMidBlock":
        raise CannotTakeApart(f"it has a {type(block).__name__} where a QwenImageMidBlock is expected")
    yield _layer(block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield _layer(attention)
        yield _layer(resnet)


def _head(half: Any) -> Convolution:
    return _plain(half.conv_out, half.norm_out, half.nonlinearity)


def _residual(block: Any) -> Residual:
    if block.dropout.p != 0 and block.training:
        raise CannotTakeApart("its QwenImageResidualBlock drops numbers at random, as in training")
    shortcut = block.conv_shortcut
    return Residual(
        first=_plain(block.conv1, block.norm1, block.nonlinearity),
        second=_plain(block.conv2, block.norm2, block.nonlinearity),
        shortcut=None if type(shortcut) is nn.Identity else _plain(shortcut),
    )


def _attention(module: Any) -> Attention:
    if any(type(layer) is not nn.Conv2d or layer.kernel_size != (1, 1) for layer in (module.to_qkv, module.proj)):
        raise CannotTakeApart("its attention is not the plain one of AutoencoderKLQwenImage")
    query, key, value = (Projection(layer=module.to_qkv, part=(i, 3)) for i in range(3))
    return Attention(norm=_norm(module.norm), query=query, key=key, value=value, out=Projection(layer=module.proj))


def _resize(module: Any) -> Convolution:
    """Enlarges or shrinks; what it would do to further frames is left out."""
    layers: list[Any] = list(module.resample) if isinstance(module.resample, nn.Sequential) else []
    kinds = [type(layer).__name__ for layer in layers]
    if module.mode in ("upsample2d", "upsample3d") and kinds == ["QwenImageUpsample", "Conv2d"]:
        grow, conv = layers
        if _plain_2d(conv, stride=1, padding=1) and grow.scale_factor == (2.0, 2.0) and "nearest" in grow.mode:
            return Convolution(conv=conv, margins=(1, 1, 1, 1), upsample=True)
    if module.mode in ("downsample2d", "downsample3d") and kinds == ["ZeroPad2d", "Conv2d"]:
        pad, conv = layers
        if _plain_2d(conv, stride=2, padding=0) and tuple(pad.padding) == (0, 1, 0, 1):
            return Convolution(conv=conv, margins=(0, 1, 0, 1))
    raise CannotTakeApart(f"its QwenImageResample ({module.mode}) is no plain resize and 3×3 convolution")


def _plain_2d(conv: Any, *, stride: int, padding: int) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (3, 3)
        and conv.stride == (stride, stride)
        and conv.padding == (padding, padding)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _plain(conv: Any, norm: Any = None, act: Any = None) -> Convolution:
    if not _causal(conv):
        raise CannotTakeApart(f"its {type(conv).__name__} is not a plain causal 3×3×3 or 1×1×1 convolution")
    if act is not None and not isinstance(act, POINTWISE):
        raise CannotTakeApart(f"its activation is a {type(act).__name__}")
    margin = conv.kernel_size[-1] // 2
    return Convolution(
        conv=conv, norm=None if norm is None else _norm(norm), act=act, margins=(margin, margin, margin, margin)
    )


def _causal(conv: Any) -> bool:
    """Whether the last temporal slice of a convolution's kernel is all that meets a first frame."""
    if not is_causal_convolution(conv):
        return False
    times, rows, columns = conv.kernel_size
    beside = rows // 2
    return (
        rows == columns
        and rows in (1, 3)
        and conv.stride == (1, 1, 1)
        and conv.dilation == (1, 1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and tuple(conv.padding) == (0, 0, 0)
        and tuple(conv._padding) == (beside, beside, beside, beside, times - 1, 0)
    )


def _norm(norm: Any) -> PixelNorm:
    if type(norm).__name__ != "QwenImageRMS_norm" or not norm.channel_first or norm.scale != norm.gamma.numel() ** 0.5:
        raise CannotTakeApart(f"it normalizes by {type(norm).__name__}, not over channels")
    return rms_norm(norm, "gamma", "bias" if isinstance(norm.bias, nn.Parameter) else "")
