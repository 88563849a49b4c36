"""What a model's makers call the tensors of a part, for files that other programs read.

Reading goes the other way, and takes every name that anybody uses (:meth:`Architecture.target`); here there is one for
each tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import attrs

__all__ = ["Original", "OriginalBlocks", "OriginalNames", "as_they_are"]

Layers = Mapping[str, tuple[str, ...]]
"""Layer as its makers call it → the layers here whose outputs lie one after the other in it."""


@attrs.frozen(kw_only=True)
class Original:
    """A tensor of the makers' file.

    name: there.
    tensors: of the part here, which are joined along their rows in it.
    halves_swapped: whether the two halves of its rows are in the other order there.
    flat: whether it has one axis there.
    """

    name: str
    tensors: tuple[str, ...]
    halves_swapped: bool = False
    flat: bool = False


class OriginalBlocks(NamedTuple):
    """One list of blocks: how names begin in it, there and here, with {} for the number; and the layers in a block.

    norms: layers whose weight its makers call a scale.
    """

    there: str
    here: str
    layers: Layers
    norms: Layers


@attrs.frozen(kw_only=True)
class OriginalNames:
    """The names of a part's tensors in the makers' files.

    top: layers outside of blocks.
    swapped: the same of layers whose outputs are two halves, in the other order there.
    blocks: lists of blocks.
    """

    top: Layers
    swapped: Layers = attrs.field(factory=dict)
    blocks: tuple[OriginalBlocks, ...] = ()

    def originals(self, names: Collection[str]) -> tuple[Original, ...]:
        """The makers' tensors that hold all of a part's.

        names: of the part's tensors.

        Raises KeyError for a tensor whose makers' name nobody knows.
        """
        found: list[Original] = []
        self._add(found, names, "", "", self.swapped, "weight", swapped=True)
        self._add(found, names, "", "", self.top, "weight")
        for blocks in self.blocks:
            number = 0
            while any(name.startswith(blocks.here.format(number)) for name in names):
                there, here = blocks.there.format(number), blocks.here.format(number)
                self._add(found, names, there, here, blocks.layers, "weight")
                self._add(found, names, there, here, blocks.norms, "scale")
                number += 1
        left = set(names) - {name for original in found for name in original.tensors}
        if left:
            raise KeyError(min(left))
        return tuple(found)

    @staticmethod
    def _add(
        found: list[Original],
        names: Collection[str],
        there: str,
        here: str,
        layers: Layers,
        weight: str,
        *,
        swapped: bool = False,
    ) -> None:
        for layer, modules in layers.items():
            for leaf in ("weight", "bias"):
                tensors = tuple(f"{here}{module}.{leaf}" for module in modules)
                if all(name in names for name in tensors):
                    called = weight if leaf == "weight" else leaf
                    found.append(
                        Original(name=f"{there}{layer}.{called}", tensors=tensors, halves_swapped=swapped)
                    )  # fmt: skip


def as_they_are(names: Iterable[str]) -> tuple[Original, ...]:
    """For makers who call everything as it is called here."""
    return tuple(Original(name=name, tensors=(name,)) for name in names)
