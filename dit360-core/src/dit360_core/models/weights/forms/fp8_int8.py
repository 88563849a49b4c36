"""How the numbers of safetensors files in eight bits are turned back: fp8 with and without scales, ComfyUI's int8."""

from __future__ import annotations

import functools

import torch

from dit360_core.models.weights.forms.packed import Decode

_REGULAR = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))
"""The regular Hadamard matrix of order 4; that of order 4ⁿ is its n-th Kronecker power (Huang et al. 2025, ConvRot)."""


def eight_bits(tensors: tuple[torch.Tensor, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """weight, and a scale ``(rows,)`` for each row, if there are any: the product in float32."""
    weight = _in_full(tensors[0])
    if len(tensors) > 1:
        weight.mul_(tensors[1].float().view(-1, *[1] * (weight.ndim - 1)))
    return weight.view(shape)


def _in_full(stored: torch.Tensor) -> torch.Tensor:
    """In float32, a new tensor."""
    if stored.device.type != "cpu" or stored.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        return stored.float()
    # PyTorch turns them back one by one on a CPU; looked up in a table they come in half of the time or less.
    return torch.nn.functional.embedding(stored.view(torch.uint8).int(), _numbers(stored.dtype)).squeeze(-1)


@functools.cache
def _numbers(dtype: torch.dtype) -> torch.Tensor:
    """``(256, 1)``: what each byte means."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()[:, None]


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
