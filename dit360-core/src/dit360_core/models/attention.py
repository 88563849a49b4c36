"""What every family's attention processor has in common: the kernel that is attached, or that of one call."""

from __future__ import annotations

from typing import Any

import torch

from dit360_core.errors import Dit360Error, InputError
from dit360_core.plugins.offers import Attend
from dit360_core.plugins.slicing import of_its_shape, sliced


class KernelProcessor:
    """For ``set_attn_processor`` of a transformer of diffusers: one object serves all of its modules.

    A family's own does what diffusers' does up to the attention itself, and calls :meth:`attended` for that.

    attend: the kernel, fixed when a pipeline is loaded. One call of the transformer may bring its own, which leaves the
    pipeline, and any other thread that uses it, as they were; so may ``key_bias``, for a kernel that takes one.
    """

    # diffusers sets these two from outside; the second must not be ignored, or the result is silently wrong.
    _attention_backend = None
    _parallel_config = None

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def attended(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scale: float,
        attend: Attend | None = None,
        key_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``(B, S, H·D)`` in the dtype of q.

        q, k, v: ``(B, S, H, D)``.
        attend: the kernel of this call only.
        key_bias: ``(S,)`` fp32, added to the scores of each key.
        """
        if self._parallel_config is not None:
            raise Dit360Error(
                "Context parallelism was switched on for this transformer, which dit360's attention does not support; "
                "switch it off, or run the pipeline without it."
            )
        # Not handed on when there is none: most kernels do not know the word.
        bias = {} if key_bias is None else {"key_bias": key_bias}
        out = of_its_shape((attend or self.attend)(q, k, v, scale=scale, **bias), q)
        return out.flatten(2, 3).to(q.dtype)


def kernel_for(denoiser: Any, attend: Attend, slice_size: int) -> Attend:
    """A kernel as a processor is to have it, ``slice_size`` queries at a time (0: all).

    denoiser: whose processors are about to be replaced.

    Raises InputError if context parallelism is switched on for it, which would go unseen.
    """
    # Set on the processors that are replaced, where ours would not see it.
    for module in denoiser.modules():
        if getattr(getattr(module, "processor", None), "_parallel_config", None) is not None:
            raise InputError(
                "Context parallelism is switched on for this transformer, which dit360's attention does not "
                "support; load it without."
            )
    return sliced(attend, slice_size) if slice_size else attend
