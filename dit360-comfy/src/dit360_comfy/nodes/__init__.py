"""The nodes, by the ids that workflows know them by."""

from __future__ import annotations

from typing import Any

from dit360_comfy.nodes import (
    cubes,
    decode,
    inpaint,
    loader,
    lora,
    memory,
    native,
    parts,
    paste,
    photo,
    preview,
    process,
    prompt,
    region,
    report,
    sampler,
    upscale,
    views,
)

_MODULES = (
    loader, lora, prompt, sampler, decode, parts, photo, region, inpaint, paste, upscale, views, cubes, process,
    preview, native, report, memory,
)  # fmt: skip

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {name: node for module in _MODULES for name, node in module.NODES.items()}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {name: node.DISPLAY_NAME for name, node in NODE_CLASS_MAPPINGS.items()}
