"""What made a picture, carried from the node that made it to the one that saves it.

ComfyUI's IMAGE is a tensor and nothing else. The settings ride on the tensor object, which ComfyUI passes on as it is;
a node in between that makes another picture makes another tensor, and the settings, which would not be true of it, are
gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NAME = "dit360_settings"


def remember(image: Any, settings: Sequence[Mapping[str, Any]]) -> Any:
    """Returns the IMAGE ``[B, H, W, C]`` with the settings of each of its pictures."""
    setattr(image, _NAME, tuple(settings))
    return image


def recall(image: Any) -> tuple[Mapping[str, Any], ...]:
    """The settings of each picture of an IMAGE; empty ones where nothing is known."""
    return getattr(image, _NAME, None) or tuple({} for _ in range(len(image)))
