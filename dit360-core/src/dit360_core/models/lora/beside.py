"""A LoRA that is computed beside a layer, whatever that layer's weights are stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.nn.functional import layer_norm, rms_norm
from torch.nn.functional import linear as multiply

from dit360_core.errors import ModelError, named
from dit360_core.models.weights.conversion import place

if TYPE_CHECKING:
    from dit360_core.models.lora.factors import Factors
    from dit360_core.models.lora.fitting import Lora


@attrs.define(eq=False)
class Strength:
    """How strongly a LoRA is applied, shared by all its layers."""

    value: float


class LoraBeside(torch.nn.Module):
    """``base(x) + strength · (up(down(x)) + weight·x + bias)``. At strength 0 it is ``base(x)``, bit by bit."""

    # diffusers' own adapters are PEFT's, which knows only some kinds of quantized layers and refuses the others.
    def __init__(self, base: torch.nn.Module, factors: Factors, strength: Strength, like: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.strength = strength

        made_for = factors.weight_shape()
        self._linear = made_for is None or len(made_for) == 2

        def kept(tensor: torch.Tensor | None) -> torch.nn.Parameter | None:
            return None if tensor is None else torch.nn.Parameter(tensor.to(like), requires_grad=False)

        self.down, self.up, self.added, self.added_bias = map(
            kept, (factors.down, factors.up, factors.weight, factors.bias)
        )

    @property
    def weight(self) -> Any:
        """The layer's own, for whoever asks in what it computes, as some text encoders do."""
        return getattr(self.base, "weight", None)

    @property
    def nothing(self) -> bool:
        """Whether its numbers add nothing in the dtype they are kept in."""
        product = self.down is not None and self.up is not None and bool(self.down.any()) and bool(self.up.any())
        rest = (self.added, self.added_bias)
        return not product and not any(tensor is not None and bool(tensor.any()) for tensor in rest)

    def forward(self, x: torch.Tensor) -> Any:
        if not self.strength.value:
            return self.base(x)
        if not self._linear:
            return self._norm(x)
        out = self.base(x)
        like: Any = next(self.parameters(recurse=False))
        x = x.to(like)
        sum_: Any = None
        if self.down is not None and self.up is not None:
            sum_ = multiply(multiply(x, self.down), self.up, self.added_bias)
        if self.added is not None:
            dense = multiply(x, self.added, self.added_bias if sum_ is None else None)
            sum_ = dense if sum_ is None else sum_ + dense
        if sum_ is None:
            sum_ = self.added_bias
        return out + (self.strength.value * sum_).to(out)

    def _norm(self, x: torch.Tensor) -> Any:
        # A layer that multiplies what it has normalized by its weight, channel by channel, is linear in that weight.
        innermost: Any = self.base
        while isinstance(innermost, LoraBeside):
            innermost = innermost.base
        wide, added, eps = x.float(), self.added, getattr(innermost, "variance_epsilon", None)
        eps = getattr(innermost, "eps", None) if eps is None else eps
        sum_: Any = 0.0
        if added is not None and isinstance(innermost, torch.nn.LayerNorm):
            sum_ = layer_norm(wide, added.shape, added.float(), eps=innermost.eps)
        elif added is not None:
            sum_ = rms_norm(wide, list(added.shape), added.float(), eps)
        if self.added_bias is not None:
            sum_ = sum_ + self.added_bias.float()
        out = self.base(x)
        return out + (self.strength.value * sum_).to(out)


def put_beside(module: torch.nn.Module, part: str, lora: Lora, shared: Strength, like: torch.Tensor) -> None:
    """Wraps the layers of a part that a LoRA, fitted to it, changes.

    like: dtype and device of its factors.

    Raises ModelError if that would not be all of the LoRA, or nothing.
    """
    lora.check_beside()
    layers = lora.of(part)
    made = [LoraBeside(module.get_submodule(name), factors, shared, like) for name, factors in layers.items()]
    if all(layer.nothing for layer in made) and not all(factors.zero for factors in layers.values()):
        raise ModelError(
            f"{lora.file} holds values that cannot be represented in {like.dtype}; use another {named('precision')}."
        )
    for name, layer in zip(layers, made, strict=True):
        place(module, name, layer)
