"""The calls of FlashAttention's versions. The only module here that imports them.

All take ``(B, S, H, D)`` as dit360 has it. Some return the log-sum-exp beside the result, some only on request, which
has changed between releases.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from dit360_core.plugins import Attend


def flash_3() -> Attend:
    """FlashAttention-3: forward only from PyPI, or a build of its source."""
    name = next(n for n in ("fa3_fwd_interface", "flash_attn_interface") if importlib.util.find_spec(n))
    return _calling(importlib.import_module(name))


def flash_4() -> Attend:
    """FlashAttention-4, which CuTe compiles at the first call of a shape."""
    return _calling(importlib.import_module("flash_attn.cute"))


def flash_2() -> Attend:
    """FlashAttention-2."""
    return _calling(importlib.import_module("flash_attn"))


def flash_hub() -> Attend:
    """A kernel that was downloaded from the Hub before; the network is not asked."""
    from dit360_attn_flash.hub import downloaded, load

    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return _calling(load(downloaded(capability)))


def flash_torch() -> Attend:
    """PyTorch's flash operator, with what the program has switched it to."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]

    return attend


def _calling(library: ModuleType) -> Attend:
    function: Any = getattr(library, "flash_attn_func", None)
    if function is None:
        raise ImportError(f"{library.__name__} has no flash_attn_func: another version, or half of an installation")

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        returned = function(q, k, v, softmax_scale=scale)
        out: torch.Tensor = returned[0] if isinstance(returned, tuple) else returned
        return out

    return attend
