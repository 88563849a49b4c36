"""A LoRA that is computed beside a layer, whatever that layer's weights are stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.nn.functional import linear as multiply

from dit360_core.conversion import place
from dit360_core.errors import ModelError

if TYPE_CHECKING:
    from dit360_core.flux.lora import Factors, Lora


@attrs.define(eq=False)
class Strength:
    """How strongly a LoRA is applied, shared by all its layers."""

    value: float


class LoraBeside(torch.nn.Module):
    """``base(x) + strength · up(down(x))``. At strength 0 it is ``base(x)``, bit by bit."""

    # diffusers' own adapters are PEFT's, which knows only some kinds of quantized layers and refuses the others.
    def __init__(self, base: torch.nn.Module, factors: Factors, strength: Strength, like: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.strength = strength

        def kept(tensor: torch.Tensor) -> torch.nn.Parameter:
            return torch.nn.Parameter(tensor.to(like), requires_grad=False)

        self.down, self.up = kept(factors.down), kept(factors.up)
        self.bias = None if factors.bias is None else kept(factors.bias)

    def forward(self, x: torch.Tensor) -> Any:
        out = self.base(x)
        if not self.strength.value:
            return out
        return out + self.strength.value * multiply(multiply(x, self.down), self.up, self.bias)


def put_beside(transformer: torch.nn.Module, lora: Lora, shared: Strength, like: torch.Tensor) -> None:
    """Wraps the layers of a LoRA that was fitted to this transformer. like: dtype and device of its factors.

    Raises ModelError if that would not be all of the LoRA, or nothing.
    """
    lora.check_beside()
    made = [LoraBeside(transformer.get_submodule(name), factors, shared, like) for name, factors in lora.layers.items()]
    vanished = not any(layer.down.any() and layer.up.any() for layer in made)
    if vanished and not all(factors.zero for factors in lora.layers.values()):
        raise ModelError(f"{lora.file} holds numbers that are nothing in {like.dtype}; use another precision.")
    for name, layer in zip(lora.layers, made, strict=True):
        place(transformer, name, layer)
