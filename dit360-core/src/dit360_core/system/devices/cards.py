"""Cards, and which of them a process sees by ``CUDA_VISIBLE_DEVICES`` and its like."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs


@attrs.frozen(kw_only=True)
class Card:
    """A graphics card.

    memory: bytes, 0 if unknown.
    capability: CUDA's (major, minor), None if unknown.
    uuid: as its driver writes it.

    fast_bfloat16: it multiplies bfloat16 in hardware.
    instances: those of a card that is split (NVIDIA's MIG), of which a process sees only one; None: it is not split.
    """

    name: str
    memory: int = 0
    capability: tuple[int, int] | None = None
    fast_bfloat16: bool = True
    uuid: str = ""
    instances: tuple[Card, ...] | None = None

    @property
    def usable(self) -> tuple[Card, ...]:
        """What a process gets of it: itself, or its first instance, or nothing."""
        return (self,) if self.instances is None else self.instances[:1]


def visible(cards: Sequence[Card], asked: str | None) -> tuple[Card, ...]:
    """The cards that CUDA shows to a process, in its order.

    cards: all, in CUDA's order.
    asked: what ``CUDA_VISIBLE_DEVICES`` holds, None if it is not set; empty hides all. Numbers, or beginnings of UUIDs;
    what comes after the first entry that fits no card is not seen, and of an entry named twice nothing is, as CUDA has
    it: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#cuda-environment-variables
    """
    if asked is None:
        whole = [card for card in cards if card.instances is None]
        return (*whole, *(part for card in cards if card.instances is not None for part in card.usable))
    seen: list[Card] = []
    for entry in asked.split(","):
        found = _named(cards, entry.strip())
        if found is None:
            break
        if found in seen:
            return ()
        seen.append(found)
    return tuple(part for card in seen for part in card.usable)


def _named(cards: Sequence[Card], entry: str) -> Card | None:
    if entry.startswith(("GPU-", "MIG-")):
        everything = [*cards, *(part for card in cards for part in card.instances or ())]
        fitting = [card for card in everything if card.uuid.startswith(entry)]
        return fitting[0] if len(fitting) == 1 else None
    number = re.match(r"\+?(\d+)", entry)
    index = int(number[1]) if number else -1
    return cards[index] if 0 <= index < len(cards) else None
