"""An AutoencoderKL taken apart: its halves as plain sequences of steps, each with its modules and its sizes.

Only what is fully understood is taken apart: every parameter of a half must be claimed by a step, every module must be
of a kind listed here. Anything else raises CannotTakeApart, and another way of decoding is used. Nothing here touches
weights, so a model on the meta device can be taken apart for planning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from torch import nn

from dit360_core.errors import ModelError

_POINTWISE = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish)


class CannotTakeApart(ModelError):
    """An autoencoder has a part whose computation is not known here."""


@attrs.frozen(kw_only=True, eq=False)
class Convolution:
    """Normalize, activate, enlarge, pad, convolve: each but the last may be missing.

    margins: left, right, top, bottom; columns beyond the edge are those of the other side, rows are zeros.
    upsample: nearest neighbour by 2 before the convolution.
    """

    conv: nn.Conv2d
    norm: nn.GroupNorm | None = None
    act: nn.Module | None = None
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    upsample: bool = False

    @property
    def channels_in(self) -> int:
        return self.conv.in_channels

    @property
    def channels_out(self) -> int:
        return self.conv.out_channels

    @property
    def kernel(self) -> int:
        return int(self.conv.kernel_size[0])

    @property
    def stride(self) -> int:
        return int(self.conv.stride[0])

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
    shortcut: Convolution | None
    scale: float


@attrs.frozen(kw_only=True, eq=False)
class Attention:
    """Self-attention of all pixels: ``(x + out(attend(query, key, value of norm(x)))) / scale``."""

    norm: nn.GroupNorm
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    heads: int
    scale: float

    @property
    def channels(self) -> int:
        return self.query.in_features


Step = Convolution | Residual | Attention


def decoder_steps(vae: Any) -> tuple[Step, ...]:
    """Latents to pixels. Raises CannotTakeApart."""
    half = _half(vae, "decoder")
    blocks = [(b, "upsamplers") for b in _known(half.up_blocks, "UpDecoderBlock2D")]
    middle = [*_middle(half.mid_block), *(s for b, name in blocks for s in _block(b, name))]
    steps = [*_pointwise(vae, "post_quant_conv"), _plain(half.conv_in), *middle, _head(half)]
    return _claimed(steps, [half, getattr(vae, "post_quant_conv", None)])


def encoder_steps(vae: Any) -> tuple[Step, ...]:
    """Pixels to the moments of the latents. Raises CannotTakeApart."""
    half = _half(vae, "encoder")
    blocks = [(b, "downsamplers") for b in _known(half.down_blocks, "DownEncoderBlock2D")]
    middle = [*(s for b, name in blocks for s in _block(b, name)), *_middle(half.mid_block)]
    steps = [_plain(half.conv_in), *middle, _head(half), *_pointwise(vae, "quant_conv")]
    return _claimed(steps, [half, getattr(vae, "quant_conv", None)])


def _half(vae: Any, name: str) -> Any:
    half = getattr(vae, name, None)
    if type(vae).__name__ != "AutoencoderKL" or type(half).__name__ != name.capitalize():
        raise CannotTakeApart(f"a {type(vae).__name__} is no AutoencoderKL of diffusers")
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
        query=query,
        key=key,
        value=value,
        out=out,
        heads=int(module.heads),
        scale=float(module.rescale_output_factor),
    )


def _plain(
    conv: Any, norm: Any = None, act: Any = None, margins: tuple[int, int, int, int] | None = None
) -> Convolution:
    if not (_square(conv, 3, conv.stride[0]) or _square(conv, 1, 1)):
        raise CannotTakeApart(f"its {type(conv).__name__} is not a plain 3×3 or 1×1 convolution")
    if act is not None and not isinstance(act, _POINTWISE):
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


def _claimed(steps: list[Step], halves: list[nn.Module | None]) -> tuple[Step, ...]:
    """The steps, if between them they hold every parameter of the halves."""
    mine = {id(p) for step in steps for module in modules_of(step) for p in module.parameters(recurse=False)}
    for half in halves:
        for module in half.modules() if half is not None else ():
            # accelerate's hooks only bring weights; what others do would be left out.
            if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_diffusers_hook"):
                raise CannotTakeApart(f"its {type(module).__name__} has hooks, which would not run")
        for name, parameter in half.named_parameters() if half is not None else ():
            if id(parameter) not in mine:
                raise CannotTakeApart(f"its parameter {name} has no known use")
    return tuple(steps)


def modules_of(step: Step) -> list[nn.Module]:
    """The modules whose weights a step uses."""
    if isinstance(step, Convolution):
        return [step.conv, *([step.norm] if step.norm is not None else [])]
    if isinstance(step, Residual):
        inner = [step.first, step.second, *([step.shortcut] if step.shortcut is not None else [])]
        return [module for convolution in inner for module in modules_of(convolution)]
    return [step.norm, step.query, step.key, step.value, step.out]
