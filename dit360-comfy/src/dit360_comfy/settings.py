"""What made a picture, carried from the node that made it to the one that saves it.

ComfyUI's IMAGE is a tensor and nothing else, and what other nodes make of a LATENT or a CONDITIONING keeps the keys of
its dictionary with other numbers beside them. So what is told of a tensor rides on the tensor object, which ComfyUI
passes on as it is; whatever makes other numbers makes another tensor, and what would not be true of it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NAME = "dit360_told"


def ride(tensor: Any, told: Any, name: str = _NAME) -> Any:
    """Returns the tensor, with something to tell of it.

    name: of what is told, where several things may be.
    """
    setattr(tensor, name, told)
    return tensor


def riding(tensor: Any, name: str = _NAME) -> Any:
    """What :func:`ride` put on a tensor by that name; None where nothing is known of it."""
    return getattr(tensor, name, None)


def remember(pictures: Any, settings: Sequence[Mapping[str, Any]]) -> Any:
    """Returns an IMAGE ``[B, H, W, C]``, or the samples of a LATENT, with the settings of each of its pictures."""
    return ride(pictures, tuple(settings))


def recall(pictures: Any) -> tuple[Mapping[str, Any], ...]:
    """The settings of each picture; empty ones where nothing is known."""
    return riding(pictures) or tuple({} for _ in range(len(pictures)))
