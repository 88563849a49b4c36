"""diffusers' autoencoders taken apart: their halves as plain sequences of steps, each with its modules and its sizes.

Only what is fully understood is taken apart: every parameter of a half must be claimed by a step, every module must be
of a kind listed here. Anything else raises CannotTakeApart, and another way of decoding is used. Nothing here touches
weights, so a model on the meta device can be taken apart for planning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from torch import nn

from dit360_core.sphere.vae import causal
from dit360_core.sphere.vae.steps import (
    POINTWISE,
    Attention,
    CannotTakeApart,
    Convolution,
    Projection,
    Residual,
    Step,
    TellsSteps,
    all_claimed,
    told_steps,
)

PLAIN = ("AutoencoderKL", "AutoencoderKLFlux2")
"""Classes of diffusers' built of the same blocks. FLUX.2's batch normalization belongs to neither half: its statistics
are undone outside."""


def decoder_steps(vae: Any) -> tuple[Step, ...]:
    """Latents to pixels. Raises CannotTakeApart."""
    if isinstance(vae, TellsSteps):
        return told_steps(vae, "decoder")
    if causal.is_causal(vae):
        return causal.decoder_steps(vae)
    half = _half(vae, "decoder")
    blocks = [(b, "upsamplers") for b in _known(half.up_blocks, "UpDecoderBlock2D")]
    middle = [*_middle(half.mid_block), *(s for b, name in blocks for s in _block(b, name))]
    steps = [*_pointwise(vae, "post_quant_conv"), _plain(half.conv_in), *middle, _head(half)]
    return all_claimed(steps, [half, getattr(vae, "post_quant_conv", None)])


def encoder_steps(vae: Any) -> tuple[Step, ...]:
    """Pixels to the moments of the latents. Raises CannotTakeApart."""
    if isinstance(vae, TellsSteps):
        return told_steps(vae, "encoder")
    if causal.is_causal(vae):
        return causal.encoder_steps(vae)
    half = _half(vae, "encoder")
    blocks = [(b, "downsamplers") for b in _known(half.down_blocks, "DownEncoderBlock2D")]
    middle = [*(s for b, name in blocks for s in _block(b, name)), *_middle(half.mid_block)]
    steps = [_plain(half.conv_in), *middle, _head(half), *_pointwise(vae, "quant_conv")]
    return all_claimed(steps, [half, getattr(vae, "quant_conv", None)])


def _half(vae: Any, name: str) -> Any:
    half = getattr(vae, name, None)
    if type(vae).__name__ not in PLAIN or type(half).__name__ != name.capitalize():
        raise CannotTakeApart(
            f"a {type(vae).__name__} is none of {', '.join((*PLAIN, causal.CLASS))} of diffusers and tells no steps"
        )
    return half


def _known(blocks: Any, name: str) -> Iterator[Any]:
    for block in blocks:
        if type(block).__name__ != name:
            raise CannotTakeApart(f"it has a {type(block).__name__} where a {name} is expected")
        yield block


def _block(block: Any, resizing: str) -> Iterator[Step]:
    for resnet in block.resnets:
        yield _residual(resnet)
    for module in getattr(block, resizing) or ():
        yield _resize(module)


def _middle(block: Any) -> Iterator[Step]:
    list(_known([block], "UNetMidBlock2D"))
    yield _residual(block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield _attention(attention)
        yield _residual(resnet)


def _head(half: Any) -> Convolution:
    return _plain(half.conv_out, half.conv_norm_out, half.conv_act)


def _pointwise(vae: Any, name: str) -> Iterator[Convolution]:
    if getattr(vae, name, None) is not None:
        yield _plain(getattr(vae, name))


def _residual(block: Any) -> Residual:
    plain = (
        type(block).__name__ == "ResnetBlock2D"
        and block.time_emb_proj is None
        and block.time_embedding_norm in ("default", "group")
        and block.upsample is None
        and block.downsample is None
        and (block.dropout.p == 0 or not block.training)
    )
    if not plain:
        raise CannotTakeApart(f"its {type(block).__name__} does more than two convolutions and a shortcut")
    return Residual(
        first=_plain(block.conv1, block.norm1, block.nonlinearity),
        second=_plain(block.conv2, block.norm2, block.nonlinearity),
        shortcut=None if block.conv_shortcut is None else _plain(block.conv_shortcut),
        scale=float(block.output_scale_factor),
    )


def _resize(module: Any) -> Convolution:
    kind = type(module).__name__
    if module.norm is None and module.use_conv:
        if kind == "Upsample2D" and module.interpolate and not module.use_conv_transpose and _square(module.conv, 3, 1):
            return attrs.evolve(_plain(module.conv), upsample=True)
        if kind == "Downsample2D" and _square(module.conv, 3, 2):
            # With padding 0 diffusers adds one column on the right and one row below before it convolves.
            return _plain(module.conv, margins=(0, 1, 0, 1) if module.padding == 0 else None)
    raise CannotTakeApart(f"its {kind} is no plain resize and 3×3 convolution")


def _attention(module: Any) -> Attention:
    plain = (
        type(module).__name__ == "Attention"
        and type(module.processor).__name__ in ("AttnProcessor", "AttnProcessor2_0")
        and module.spatial_norm is None
        and module.norm_q is None
        and module.norm_k is None
        and module.residual_connection
        and not getattr(module, "fused_projections", False)
        and abs(module.scale - (module.inner_dim // module.heads) ** -0.5) < 1e-12
    )
    layers = (module.to_q, module.to_k, module.to_v, module.to_out[0])
    if not plain or any(type(layer) is not nn.Linear for layer in layers):
        raise CannotTakeApart("its attention is not the plain one of AutoencoderKL")
    query, key, value, out = layers
    return Attention(
        norm=_norm(module.group_norm),
        query=Projection(layer=query),
        key=Projection(layer=key),
        value=Projection(layer=value),
        out=Projection(layer=out),
        heads=int(module.heads),
        scale=float(module.rescale_output_factor),
    )


def _plain(
    conv: Any, norm: Any = None, act: Any = None, margins: tuple[int, int, int, int] | None = None
) -> Convolution:
    if not (_square(conv, 3, conv.stride[0]) or _square(conv, 1, 1)):
        raise CannotTakeApart(f"its {type(conv).__name__} is not a plain 3×3 or 1×1 convolution")
    if act is not None and not isinstance(act, POINTWISE):
        raise CannotTakeApart(f"its activation is a {type(act).__name__}")
    above, beside = int(conv.padding[0]), int(conv.padding[1])
    return Convolution(
        conv=conv,
        norm=None if norm is None else _norm(norm),
        act=act,
        margins=margins or (beside, beside, above, above),
    )


def _square(conv: Any, kernel: int, stride: int) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (kernel, kernel)
        and conv.stride == (stride, stride)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.padding in ((0, 0), (kernel // 2, kernel // 2))
    )


def _norm(norm: Any) -> nn.GroupNorm:
    if type(norm) is not nn.GroupNorm:
        raise CannotTakeApart(f"it normalizes by {type(norm).__name__}")
    return norm
