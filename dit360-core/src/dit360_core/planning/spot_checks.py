"""A plugin's attention kernel while it paints: one call in thirteen is compared with what is right.

A trial cannot see a kernel that goes wrong later, or only with the numbers of a real picture.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from dit360_core.errors import Dit360Error, named
from dit360_core.plugins.builtin.attention_kernels import eager, sdpa
from dit360_core.plugins.offers import Attend

EVERY = 13
"""Calls from one that is looked at to the next: no divisor of the layers of any model, so that all of them come up."""
_ROWS = 16
_UNITS = {torch.bfloat16: 8, torch.float16: 8}
"""Units in the last place of the largest number that a kernel may be off by, beside what PyTorch's own is; 512 else."""


class Spotted:
    """A kernel that computes what it did, or raises Dit360Error.

    whose: who is to be told as its author.

    Sixteen queries of one head in one call of :data:`EVERY`: less than a hundredth of the time of a picture. Inside
    of compiled blocks nothing is looked at.
    """

    def __init__(self, attend: Attend, whose: str) -> None:
        self.attend, self._whose, self._calls = attend, whose, 0

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **bias: torch.Tensor
    ) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return self.attend(q, k, v, scale=scale, **bias)
        self._calls += 1
        if self._calls % EVERY != 1 or q.is_meta:
            return self.attend(q, k, v, scale=scale, **bias)
        return self._compared(q, k, v, scale, bias)

    def _compared(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, bias: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        look = self._calls // EVERY
        head, wide = look % q.shape[2], torch.promote_types(q.dtype, torch.float32)
        rows = torch.linspace(0, q.shape[1] - 1, min(_ROWS, q.shape[1]), device=q.device).long()
        rows = (rows + look) % q.shape[1]
        few = [q[:1, rows, head : head + 1], k[:1, :, head : head + 1].clone(), v[:1, :, head : head + 1].clone()]
        # Before the kernel can have changed what it is given.
        truth = eager(*(t.to(wide) for t in few), scale=scale, **bias)
        out = self.attend(q, k, v, scale=scale, **bias)
        size, finite = float(truth.abs().max()), bool(truth.isfinite().all())
        if not finite or not size or not isinstance(out, torch.Tensor) or out.shape != q.shape:
            return out  # told elsewhere
        for name, now, before in (("keys", k, few[1]), ("values", v, few[2])):
            if not torch.equal(now[:1, :, head : head + 1], before):
                raise Dit360Error(
                    f"The attention backend {self._whose} changes the {name} that it is given to read; choose another "
                    f"{named('attention_backend')}, or tell its author."
                )
        usual = float((sdpa(*few, scale=scale, **bias).to(wide) - truth).abs().max()) / size
        allowed = 4 * usual + _UNITS.get(q.dtype, 512) * torch.finfo(q.dtype).eps
        error = float((out[:1, rows, head : head + 1].to(wide) - truth).abs().max()) / size
        if math.isfinite(usual) and not error <= allowed:
            off = f"off by {error:.2g}, where {allowed:.2g} is allowed" if math.isfinite(error) else "not finite"
            raise Dit360Error(
                f"The attention backend {self._whose} passed its trial and was wrong in the picture: in call "
                f"{self._calls} its result is {off}; choose another {named('attention_backend')}, or tell its author."
            )
        return out


def spotted(attend: Any, whose: str) -> Attend:
    """The kernel, looked at now and then; one that is so already stays as it is."""
    return attend if isinstance(attend, Spotted) else Spotted(attend, whose)
