"""LoRAs become a part of weights: all that are added to a tensor are summed up and rounded once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from dit360_core.errors import ModelError, named, setting
from dit360_core.models.lora.beside import Strength
from dit360_core.models.lora.factors import Factors
from dit360_core.models.lora.fitting import Lora

if TYPE_CHECKING:
    from dit360_core.models.weights.conversion import Converted


@attrs.define(kw_only=True, eq=False)
class Applied:
    """A LoRA of a model, and how strongly it is applied.

    changed: parts of which it has changed a weight, if fused.
    """

    lora: Lora
    shared: Strength
    changed: set[str] = attrs.field(factory=set)

    @property
    def strength(self) -> float:
        return self.shared.value


Change = tuple[Applied, Factors]
"""What a LoRA adds to one layer."""


def changes_of(loras: Iterable[Applied], part: str) -> dict[str, list[Change]]:
    """Layer of a part → what is added to it, in the order of the LoRAs."""
    found: dict[str, list[Change]] = {}
    for applied in loras:
        for name, factors in applied.lora.of(part).items():
            found.setdefault(name, []).append((applied, factors))
    return found


def fused(old: torch.Tensor, part: str, leaf: str, changes: Sequence[Change]) -> torch.Tensor:
    """A weight or bias (leaf) with its LoRAs, computed in 32 bits and rounded once; ``old`` itself if none is."""
    wide = old.to(torch.promote_types(old.dtype, torch.float32))
    total = None
    for applied, factors in changes:
        added = factors.added(leaf, wide) if applied.strength else None
        if added is None:
            continue
        added = applied.strength * added
        if part not in applied.changed and not torch.equal((wide + added).to(old.dtype), old):
            applied.changed.add(part)
        total = added if total is None else total + added
    return old if total is None else (wide + total).to(old.dtype)


def fuse(module: torch.nn.Module, part: str, loras: Sequence[Applied]) -> int:
    """Adds LoRAs to the weights of a part that is loaded. Returns how many layers were changed.

    Raises ModelError for one that changes nothing.
    """
    changes = changes_of(loras, part)
    with torch.no_grad():
        for name, of_layer in changes.items():
            layer: Any = module.get_submodule(name)
            for leaf in ("weight", "bias"):
                old = getattr(layer, leaf, None)
                if old is not None:
                    old.copy_(fused(old, part, leaf, of_layer))
    check_effect(part, loras)
    return len(changes)


def check_effect(part: str, loras: Iterable[Applied]) -> None:
    """Raises ModelError for a LoRA that changed no weight of a part although it holds something for it."""
    for applied in loras:
        mine = applied.lora.of(part)
        if mine and applied.strength and part not in applied.changed and not all(f.zero for f in mine.values()):
            raise ModelError(
                f"{applied.lora.file} was fused with strength {applied.strength:g} but changed no weight; give another "
                f"{named('precision')}."
            )


def effect_of(changes: Sequence[Change]) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What LoRAs add to the output of a Linear layer, its bias aside; None if that is nothing."""
    there = [
        factors.effect(applied.strength)
        for applied, factors in changes
        if applied.strength and not factors.zero and factors.plain and factors.weight_shape() is not None
    ]
    if not there:
        return None

    def effect(x: torch.Tensor) -> torch.Tensor:
        every = [added(x) for added in there]
        return sum(every[1:], start=every[0])

    return effect


@attrs.frozen(eq=False)
class Fusion:
    """LoRAs on their way into weights that are read one by one (``Additions`` of ``models/weights/stream.py``)."""

    loras: tuple[Applied, ...]

    def layers(self, part: str) -> Collection[str]:
        """Names of the layers of a part that are changed."""
        return changes_of(self.loras, part)

    def added(self, old: torch.Tensor, part: str, layer: str, leaf: str) -> torch.Tensor:
        """A weight or bias (leaf) with what is added to it."""
        return fused(old, part, leaf, changes_of(self.loras, part)[layer])

    def effect(self, part: str, layer: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What is added to a layer's output, its bias aside; None if that is nothing."""
        return effect_of(changes_of(self.loras, part)[layer])

    def check(self, part: str) -> None:
        """Raises ModelError if something was to change a part and changed nothing."""
        check_effect(part, self.loras)


def check_kept(loras: Sequence[Applied], converted: Iterable[Converted]) -> float | None:
    """The share of fused LoRAs' effect that quantization left (median of the layers); None if it is in none.

    Raises ModelError if it is as good as gone.
    """
    kept = [layer.lora_kept for part in converted for layer in part.layers if layer.lora_kept is not None]
    if not kept:
        return None
    share = statistics.median(kept)
    if share < 0.1:
        names = " and ".join(str(applied.lora.file) for applied in loras)
        raise ModelError(
            f"{names} disappears when weights are rounded ({share:.0%} of its effect is left); use "
            f"{setting('lora_mode', 'adapter')}, or a greater {named('lora_strength')}."
        )
    return share
