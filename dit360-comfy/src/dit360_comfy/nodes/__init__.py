"""The nodes, by the ids that workflows know them by."""

from __future__ import annotations

from typing import Any

from dit360_comfy.nodes import decode, loader, lora, memory, native, parts, preview, process, prompt, report, sampler

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {
    name: node
    for module in (loader, lora, prompt, sampler, decode, parts, process, preview, native, report, memory)
    for name, node in module.NODES.items()
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {name: node.DISPLAY_NAME for name, node in NODE_CLASS_MAPPINGS.items()}
