"""The ways to offload, where more than one module must agree about them."""

from __future__ import annotations

from collections.abc import Mapping

BY_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "text": ("text_encoder_2",),
    "group": ("transformer", "text_encoder_2"),
    "disk": ("transformer", "text_encoder_2"),
}
"""Offload → the parts that come by blocks, and only while they are used; the others stay on the device."""

EVICTED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "text": ("text_encoder_2",),
    "all": ("text_encoder_2", "transformer", "vae"),
}
"""What the option ``evict`` drops after use. CLIP, a hundredth of the weights, always stays."""


def moved_by_the_core(offload: str, part: str) -> bool:
    """Whether this way to offload brings a part to the device by itself, and only while it is used."""
    return offload in ("model", "sequential") or part in BY_BLOCKS.get(offload, ())
