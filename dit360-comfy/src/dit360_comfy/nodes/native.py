"""What gives ComfyUI's own FLUX a panorama without a seam, and the registry's attention."""

from __future__ import annotations

from typing import Any

NODES: dict[str, type[Any]] = {}
