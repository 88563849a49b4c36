"""Results that ComfyUI's cache is to keep while a graph uses them.

Since 0.33 that cache drops results where memory is short, but for objects that manage their memory themselves, which it
asks by the name ``is_dynamic``. A pipe holds no weights, so to drop it would free nothing, and the weights would be
read again at each run. A prompt as the text encoders read it, or a panorama before decoding, is some megabytes; to make
either again takes the whole text encoder, or all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Kept:
    """What is asked for and answered: keep it."""

    __slots__ = ()

    def is_dynamic(self) -> bool:
        return True


class KeptDict(dict[str, Any], Kept):
    """A dictionary of ComfyUI's. What other nodes copy of it is a plain one, which they have to keep themselves."""


def kept(tensor: Any) -> Any:
    """Returns the tensor, which answers too."""
    tensor.is_dynamic = _yes
    return tensor


def kept_conditioning(tokens: Any, settings: Mapping[str, Any]) -> list[list[Any]]:
    """ComfyUI's CONDITIONING of one prompt, of which it asks every member."""
    return [[kept(tokens), KeptDict(settings)]]


def _yes() -> bool:
    return True
