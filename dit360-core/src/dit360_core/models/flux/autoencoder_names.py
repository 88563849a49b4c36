"""What the tensors of FLUX's autoencoder are called in Black Forest Labs' files."""

from __future__ import annotations

import re
from typing import Any

LEVELS = 4
"""Of resolution, of which each but the first halves it."""


def original_name(name: str, levels: int = LEVELS) -> str:
    """What a tensor of diffusers' AutoencoderKL is called in Black Forest Labs' files.

    levels: of resolution.
    """
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    # They count the decoder's levels from the full resolution.
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", name)


_RENAMED: tuple[tuple[str, Any], ...] = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.resnets\.(\d+)\.", lambda found: f".mid.block_{int(found[1]) + 1}."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".\1.\2.block.\3."),
    (r"\.(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.", r".\1.\2.\3sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
