"""Chooses the attention kernel for the shapes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit360_core.machine import Machine
from dit360_core.offers import AttentionNeed
from dit360_core.plan import Choice, select
from dit360_core.registry import Registry

if TYPE_CHECKING:
    from dit360_core.offers import Attend, Model

TEXT_TOKENS = 512
"""Length of FLUX's prompts, for a need that is asked about before any prompt is known."""


def native_need(model: Model, machine: Machine, precision: str, heads: int, head_dim: int) -> AttentionNeed:
    """The attention calls of a model's native size."""
    from dit360_core.wrap import Grid

    length = Grid.of_picture(model.width, model.height, model.circular_padding).tokens + TEXT_TOKENS
    return AttentionNeed(device=machine.device, dtype=precision, heads=heads, head_dim=head_dim, length=length)


def slicing_notes(choice: Choice, registry: Registry, slice_size: int) -> tuple[str, ...]:
    """What there is to say of ``attention_slice_size`` with a kernel: nothing, if slices save memory with it."""
    offer = registry.find("attention", f"{choice.distribution}:{choice.used}")[0].offer
    if not slice_size or offer.stores_scores:
        return ()
    return (
        f"attention_slice_size={slice_size} saves nothing with {choice.used}, which never holds all scores at once; "
        "leave it out, or use attention_backend=eager",
    )


def choose_attention(
    requested: str, registry: Registry, machine: Machine, need: AttentionNeed, strict: bool
) -> tuple[Choice, Attend]:
    """The kernel for a need, proven by a trial run on this device. Raises BackendUnavailable or UnknownName."""
    from dit360_core.probe import probe_attention

    return select("attention", requested, registry, machine, need, probe=probe_attention, strict=strict)
