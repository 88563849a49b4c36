"""What a LoRA adds to one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch.nn.functional import pad


@attrs.frozen(kw_only=True, eq=False)
class Factors:
    """What is added to one layer: ``up · down + weight`` to its weights, ``bias`` to its bias.

    down ``(rank, in)``, up ``(out, rank)`` with alpha / rank in it; weight: of the shape of the layer's.

    new_weight, new_bias: what the layer is to have instead of its own.
    """

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    new_weight: torch.Tensor | None = None
    new_bias: torch.Tensor | None = None

    def added(self, leaf: str, old: torch.Tensor) -> torch.Tensor | None:
        """What is added to a layer's weight or bias (leaf) at strength 1, in the dtype and on the device of ``old``."""
        found = []
        if leaf == "weight":
            if self.down is not None and self.up is not None:
                found.append(self.up.to(old) @ self.down.to(old))
            plain, new = self.weight, self.new_weight
        else:
            plain, new = self.bias, self.new_bias
        if plain is not None:
            found.append(plain.to(old))
        if new is not None:
            found.append(new.to(old) - old)
        return sum(found[1:], start=found[0]) if found else None

    @property
    def plain(self) -> bool:
        """Whether it is an addition, which can be computed beside the layer."""
        return self.new_weight is None and self.new_bias is None

    @property
    def zero(self) -> bool:
        product = self.up is not None and self.down is not None and bool(self.up.any()) and bool(self.down.any())
        rest = (self.weight, self.bias)
        return self.plain and not product and not any(tensor is not None and bool(tensor.any()) for tensor in rest)

    def effect(self, strength: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """What it adds to the output of a Linear layer, its bias aside."""

        def added(x: torch.Tensor) -> torch.Tensor:
            wide, out = x.float(), torch.zeros((), device=x.device)
            if self.down is not None and self.up is not None:
                out = out + (wide @ self.down.to(wide).T) @ self.up.to(wide).T
            if self.weight is not None:
                out = out + wide @ self.weight.to(wide).T
            return strength * out

        return added

    def rows(self, start: int, stop: int) -> Factors:
        """Of some of the layer's outputs."""

        def cut(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[start:stop]

        return Factors(
            down=self.down, up=cut(self.up), weight=cut(self.weight), bias=cut(self.bias),
            new_weight=cut(self.new_weight), new_bias=cut(self.new_bias),
        )  # fmt: skip

    def with_halves_swapped(self) -> Factors:
        """With the second half of the layer's outputs first."""

        def swapped(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.roll(tensor.shape[0] // 2, 0)

        return Factors(
            down=self.down, up=swapped(self.up), weight=swapped(self.weight), bias=swapped(self.bias),
            new_weight=swapped(self.new_weight), new_bias=swapped(self.new_bias),
        )  # fmt: skip

    def with_inputs(self, count: int) -> Factors:
        """For a layer of more inputs, of which the first are those that it was made for; to the others it does nothing.

        Not for one that has weights in the place of the layer's own.
        """
        down, weight = (
            None if each is None else pad(each, (0, count - each.shape[1])) for each in (self.down, self.weight)
        )
        return attrs.evolve(self, down=down, weight=weight)

    @property
    def outputs(self) -> int:
        """How many outputs the layer has that it was made for."""
        every = (self.up, self.weight, self.bias, self.new_weight, self.new_bias)
        return next(tensor.shape[0] for tensor in every if tensor is not None)

    def weight_shape(self) -> tuple[int, ...] | None:
        """Of the weights that it was made for; None if it changes the bias alone."""
        if self.up is not None and self.down is not None:
            return (self.up.shape[0], self.down.shape[1])
        plain = self.weight if self.weight is not None else self.new_weight
        return None if plain is None else tuple(plain.shape)


def together(every: Sequence[Factors]) -> Factors:
    """Several of one layer as one. Of what stands in the place of the layer's own, the last counts."""
    if len(every) == 1:
        return every[0]
    pairs = [(each.down, each.up) for each in every if each.down is not None and each.up is not None]

    def sum_of(name: str) -> torch.Tensor | None:
        there = [value.float() for each in every if (value := getattr(each, name)) is not None]
        return sum(there[1:], start=there[0]) if there else None

    def last(name: str) -> torch.Tensor | None:
        return next((value for each in reversed(every) if (value := getattr(each, name)) is not None), None)

    return Factors(
        down=torch.cat([down.float() for down, _ in pairs]) if pairs else None,
        up=torch.cat([up.float() for _, up in pairs], dim=1) if pairs else None,
        weight=sum_of("weight"),
        bias=sum_of("bias"),
        new_weight=last("new_weight"),
        new_bias=last("new_bias"),
    )
