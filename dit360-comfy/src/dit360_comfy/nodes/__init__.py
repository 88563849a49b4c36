"""The nodes, by the ids that workflows know them by."""

from __future__ import annotations

from typing import Any

from dit360_comfy.nodes import native, preview

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {**preview.NODES, **native.NODES}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {name: node.DISPLAY_NAME for name, node in NODE_CLASS_MAPPINGS.items()}
