"""The call of xFormers, and what xFormers says of itself. The only module here that imports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from dit360_core.plugins import AttentionNeed, Machine, Reason, as_mask, torch_dtype
from xformers.ops import fmha


class MemoryEfficient:
    """An ``Attend`` that leaves the choice of the operator to xFormers."""

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, key_bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """All ``(B, S, H, D)``; key_bias ``(Sk,)``."""
        bias = as_mask(q, k, key_bias)
        # The operators want the channels of a head side by side in memory.
        q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
        out: torch.Tensor = fmha.memory_efficient_attention_forward(q, k, v, attn_bias=bias, scale=scale)
        return out

    def refuses(self, machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
        """xFormers' own words, operator by operator, if none of them can serve a need."""
        like = torch.empty(need.batch, 8, need.heads, need.head_dim, device=need.device, dtype=torch_dtype(need.dtype))
        key_bias = torch.zeros(8, device=need.device) if need.key_bias else None
        call = fmha.Inputs(query=like, key=like, value=like, attn_bias=as_mask(like, like, key_bias))
        said = {operator.NAME: operator.not_supported_reasons(call) for operator in fmha.ALL_FW_OPS}
        if all(said.values()):
            told = _together(said)
            built = "wasn't build" in told or "wasn't built" in told
            yield Reason(
                _code(told),
                f"none of xFormers' operators can do this: {told}",
                "install the xFormers that was built for this PyTorch; python -m xformers.info tells" if built else "",
            )


def _together(said: Mapping[str, list[str]]) -> str:
    """Each reason once, with the operators that gave it, or none if all of them did."""
    by_reason: dict[str, list[str]] = {}
    for name, reasons in said.items():
        for reason in reasons:
            by_reason.setdefault(reason, []).append(name)
    return "; ".join(
        reason if len(names) == len(said) else f"{' and '.join(names)}: {reason}" for reason, names in by_reason.items()
    )


def _code(told: str) -> str:
    """The kind of reason, by the words that xFormers uses for all or some of its operators."""
    for word, code in (
        ("wasn't build", "missing"),
        ("dtype=", "dtype"),
        ("attn_bias", "mask"),
        ("query.shape[-1]", "head_dim"),
    ):
        if word in told:
            return code
    return "capability"
