"""What autoencoding in one piece takes, counted buffer by buffer as the code that runs it makes and drops them.

Beside tensors that is what a convolution's kernel takes for itself: given channels first it makes a copy of its input
and of its result in its own order, as oneDNN does on a CPU and cuDNN for tensor cores; given channels last it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import nn

from dit360_core.sphere.vae.steps import Attention, Convolution, Residual, Step
from dit360_core.sphere.vae.ways import elements

Size = tuple[int, int]


@attrs.frozen(kw_only=True)
class _Conditions:
    """What decides how a step is run.

    half: whether numbers have 16 bits.
    by_steps: as for predict_whole.
    """

    half: bool
    by_steps: bool


def predict_whole(
    steps: Sequence[Step], height: int, width: int, itemsize: int, *, by_steps: bool, scores: bool = False
) -> int:
    """Bytes that one sample in one piece takes at its worst, beside weights and input.

    by_steps: whether the steps themselves are run (``whole.is_run_by_steps``), channels last in memory, or else
    diffusers' modules, channels first.
    scores: whether the device's kernel for attention keeps scores.
    """
    given = _Conditions(half=itemsize == 2, by_steps=by_steps)
    size, worst, start, into = (height, width), 0, 0, 0
    for step in steps:
        # diffusers holds what a block was given until the block is done; a block ends where it resizes.
        beside = 0 if by_steps or start == into else start
        if isinstance(step, Attention):
            worst = max(worst, beside + _attention(step, size, given, scores))
            continue
        worst = max(worst, beside + into + _beside_input(step, size, given))
        resized = isinstance(step, Convolution) and step.size_out(*size) != size
        size = step.size_out(*size) if isinstance(step, Convolution) else size
        into = elements((step.second if isinstance(step, Residual) else step).channels_out, size)
        start = into if resized or not start else start
    return worst * itemsize


def _beside_input(step: Convolution | Residual, size: Size, given: _Conditions) -> int:
    """Elements that a step takes while its input is there."""
    if isinstance(step, Convolution):
        return _convolution(step, size, given)
    middle, out = elements(step.first.channels_out, size), elements(step.second.channels_out, size)
    worst = max(_convolution(step.first, size, given), middle + _convolution(step.second, size, given))
    if step.shortcut is not None:
        worst = max(worst, out + _convolution(step.shortcut, size, given))
    # diffusers adds and divides into new tensors.
    return worst if given.by_steps else max(worst, (4 if step.shortcut is not None else 3) * out)


def _convolution(layer: Convolution, size: Size, given: _Conditions) -> int:
    """Elements that a convolution takes beside its input: what comes before the kernel, and with the kernel."""
    into, out = elements(layer.channels_in, size), elements(layer.channels_out, layer.size_out(*size))
    left, right, top, bottom = layer.margins
    made = into if layer.norm is not None or layer.act is not None else 0
    weights = layer.channels_in * layer.channels_out * (16 if layer.upsample and given.by_steps else layer.kernel**2)
    if given.by_steps:
        # An activation of its own copy is in place if it is SiLU.
        twice = made if layer.norm is not None and layer.act is not None and not isinstance(layer.act, nn.SiLU) else 0
        # Moments of groups are taken of a copy in 32 bits.
        in_32_bits = 2 * into if given.half and isinstance(layer.norm, nn.GroupNorm) else 0
        padded = (
            elements(layer.channels_in, (size[0] + top + bottom, size[1] + left + right)) if layer.kernel > 1 else 0
        )
        # An upsampling one makes its four phases, then puts them in their places.
        phases = 4 * elements(layer.channels_out, (size[0] + 1, size[1] + 1)) if layer.upsample else 0
        return max(in_32_bits, made + max(twice, padded), (padded or made) + phases + out) + 2 * weights
    grown = 4 * into if layer.upsample else 0
    inner = (2 * size[0], 2 * size[1]) if layer.upsample else size
    wrapped = elements(layer.channels_in, (inner[0], inner[1] + left + right)) if left or right else 0
    # Rows are added by the convolution itself, or in a further copy if there are not as many above as below.
    uneven = elements(layer.channels_in, (inner[0] + top + bottom, inner[1] + left + right)) if top != bottom else 0
    taken = uneven or wrapped or grown or into
    held = made + grown + (uneven or wrapped)
    return max(2 * made, made + grown + wrapped + uneven, held + max(taken + out, 2 * out) + weights)


def _attention(step: Attention, size: Size, given: _Conditions, scores: bool) -> int:
    """Elements, its input among them, which with normalized pixels, queries, keys, values and what was seen is all."""
    kept = 2 * (size[0] * size[1]) ** 2 if scores else 0
    return (5 if given.by_steps else 7) * elements(step.channels, size) + kept
