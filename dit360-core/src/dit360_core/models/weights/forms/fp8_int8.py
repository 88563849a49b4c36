"""How the numbers of safetensors files in eight bits are turned back: fp8 with and without scales, ComfyUI's int8."""

from __future__ import annotations

import functools

import torch

from dit360_core.models.weights.forms.packed import Decode

_REGULAR = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))
"""The regular Hadamard matrix of order 4; that of order 4ⁿ is its n-th Kronecker power (Huang et al. 2025, ConvRot)."""


def eight_bits(tensors: tuple[torch.Tensor, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """weight, and a scale ``(rows,)`` for each row, if there are any: the product in float32."""
    weight = tensors[0].float()
    if len(tensors) > 1:
        weight.mul_(tensors[1].float().view(-1, *[1] * (weight.ndim - 1)))
    return weight.view(shape)


def turned(group: int) -> Decode:
    """Of weights W whose columns were turned, ``group`` of them at a time, by the Hadamard matrix H: W·Hᵀ is stored.

    H is symmetric and orthogonal, so that it undoes itself.
    """
    return functools.partial(_turned_back, group=group)


def _turned_back(tensors: tuple[torch.Tensor, ...], shape: tuple[int, ...], *, group: int) -> torch.Tensor:
    weight = eight_bits(tensors, shape)
    matrix = hadamard(group).to(weight.device)
    return (weight.view(-1, group) @ matrix).view(shape)


@functools.cache
def hadamard(order: int) -> torch.Tensor:
    """``(order, order)`` float32, orthogonal.

    order: a power of 4.
    """
    step = torch.tensor(_REGULAR) / 2
    found = step
    while len(found) < order:
        found = torch.kron(found, step)
    return found
