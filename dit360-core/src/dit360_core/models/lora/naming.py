"""Which layer the file of a LoRA means by a name, where a family of models gives the tables of its names.

A name is looked up with its dots as underscores, for half of the trainers write it so; what they put before it is
the same for every family. ``docs/loras.md`` has the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from dit360_core.models.architecture import DENOISER, Target

__all__ = ["DENOISER_PREFIXES", "Blocks", "LayerNames", "PartNames", "flat", "looked_up", "same"]

DENOISER_PREFIXES = (
    "lora_unet_", "lora_transformer_", "lycoris_unet_", "lycoris_transformer_", "lycoris_", "diffusion_model_",
    "model_diffusion_model_", "transformer_", "unet_", "base_model_model_transformer_",
)  # fmt: skip
"""What trainers put before the name of a layer of what paints."""
NOBODYS_PREFIXES = ("base_model_model_", "model_", "module_", "")
"""Those that do not say whose layer it is: the name itself tells."""


def flat(names: Iterable[str]) -> dict[str, str]:
    """Names of layers as they are looked up → as they are here."""
    return {name.replace(".", "_"): name for name in names}


def same(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The same for the layers of a block, each of which is one layer here."""
    return {key: (name,) for key, name in flat(names).items()}


def looked_up(layers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Layers as their makers call them, under the names that are looked up."""
    return {name.replace(".", "_"): modules for name, modules in layers.items()}


@attrs.frozen(kw_only=True)
class Blocks:
    """One list of blocks.

    pattern: of a name as it is looked up; its two groups are the block's number and the layer in it.
    here: how the names of its layers begin here, with {} for the number.
    layers: name of a layer as it is looked up → the layers that are meant, whose outputs lie in it one after the other.
    """

    pattern: str
    here: str
    layers: Mapping[str, tuple[str, ...]]


@attrs.frozen(kw_only=True)
class PartNames:
    """The names that layers of one part have in files.

    part: its name.
    prefixes: what stands before the names of its layers, as it is looked up.
    whole: name of a layer outside of blocks, as it is looked up → its name here.
    swapped: the same of layers whose outputs are in two halves, which are in the other order here.
    blocks: its lists of blocks.
    """

    part: str = DENOISER
    prefixes: tuple[str, ...] = DENOISER_PREFIXES
    whole: Mapping[str, str]
    swapped: Mapping[str, str] = attrs.field(factory=dict)
    blocks: tuple[Blocks, ...] = ()

    def find(self, name: str) -> Target | None:
        """The layer that is meant by a name without a prefix, as it is looked up."""
        name = re.sub(r"norm_scale$", "norm", name)
        if here := self.swapped.get(name):
            return Target(part=self.part, modules=(here,), halves_swapped=True)
        if here := self.whole.get(name):
            return Target(part=self.part, modules=(here,))
        for blocks in self.blocks:
            if (match := re.fullmatch(blocks.pattern, name)) and (layers := blocks.layers.get(match[2])):
                block = blocks.here.format(int(match[1]))
                return Target(part=self.part, modules=tuple(block + layer for layer in layers))
        return None


class LayerNames:
    """The names that layers of a family of models have in files."""

    def __init__(self, *parts: PartNames) -> None:
        """parts: those that a LoRA may change; a name that does not say whose it is is looked up in this order."""
        found: dict[str, tuple[PartNames, ...]] = {prefix: (part,) for part in parts for prefix in part.prefixes}
        found |= dict.fromkeys(NOBODYS_PREFIXES, parts)
        # The longest that fits counts.
        self._by_length = sorted(found.items(), key=lambda each: -len(each[0]))

    def find(self, name: str) -> Target | None:
        """The layer meant by a name as a trainer writes it, without what names a factor; None if it is none of these.

        name: such as ``lora_unet_double_blocks_0_img_attn_qkv`` or ``transformer.transformer_blocks.0.attn.to_q``.
        """
        looked_up = name.replace(".", "_")
        # Old adapters of diffusers name the attention's processor, and the layer with _lora at its end.
        looked_up = re.sub(r"_attn_processor_(\w+?)_lora$", r"_attn_\1", looked_up)
        for prefix, parts in self._by_length:
            if looked_up.startswith(prefix):
                for part in parts:
                    if target := part.find(looked_up.removeprefix(prefix)):
                        return target
        return None
