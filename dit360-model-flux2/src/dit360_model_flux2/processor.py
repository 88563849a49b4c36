"""FLUX.2's attention with any kernel: in double blocks, and in single ones, which compute their MLP beside it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from dit360_core.models.running import KernelProcessor
from dit360_core.plugins import Attend

Rotary = tuple[torch.Tensor, torch.Tensor]


class Flux2Processor(KernelProcessor):
    """For a double block: what diffusers' Flux2AttnProcessor does up to the attention itself."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        attend: Attend | None = None,
        key_bias: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """hidden_states ``(B, S, dim)``; with encoder_hidden_states ``(B, T, dim)`` both are attended jointly.

        attend, key_bias: of this call.
        """
        q, k, v = _heads(attn, hidden_states, ("to_q", "to_k", "to_v"), "to_qkv")
        q, k = attn.norm_q(q), attn.norm_k(k)
        text = 0
        if encoder_hidden_states is not None:
            text = encoder_hidden_states.shape[1]
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            text_q, text_k, text_v = _heads(attn, encoder_hidden_states, names, "to_added_qkv")
            q = torch.cat([attn.norm_added_q(text_q), q], dim=1)
            k = torch.cat([attn.norm_added_k(text_k), k], dim=1)
            v = torch.cat([text_v, v], dim=1)
        q, k = _turned(q, k, image_rotary_emb)
        out = self.attended(q, k, v, scale=attn.head_dim**-0.5, attend=attend, key_bias=key_bias)
        if encoder_hidden_states is None:
            return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]
        text_out, image_out = out.split_with_sizes([text, out.shape[1] - text], dim=1)
        return attn.to_out[1](attn.to_out[0](image_out.contiguous())), attn.to_add_out(text_out.contiguous())


class Flux2ParallelProcessor(KernelProcessor):
    """For a single block: what diffusers' Flux2ParallelSelfAttnProcessor does up to the attention itself."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        attend: Attend | None = None,
        key_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: ``(B, T + S, dim)``. attend, key_bias: of this call."""
        wide = attn.to_qkv_mlp_proj(hidden_states)
        qkv, inner = wide.split([3 * attn.inner_dim, wide.shape[-1] - 3 * attn.inner_dim], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, attn.head_dim)) for part in qkv.chunk(3, dim=-1))
        q, k = _turned(attn.norm_q(q), attn.norm_k(k), image_rotary_emb)
        out = self.attended(q, k, v, scale=attn.head_dim**-0.5, attend=attend, key_bias=key_bias)
        return attn.to_out(torch.cat([out, attn.mlp_act_fn(inner)], dim=-1))  # type: ignore[no-any-return]


def _heads(attn: Any, x: torch.Tensor, separate: tuple[str, str, str], fused: str) -> tuple[torch.Tensor, ...]:
    """Three projections of ``(B, S, dim)`` as ``(B, S, H, D)``."""
    if attn.fused_projections:
        parts = getattr(attn, fused)(x).chunk(3, dim=-1)
    else:
        parts = tuple(getattr(attn, name)(x) for name in separate)
    return tuple(part.unflatten(-1, (-1, attn.head_dim)) for part in parts)


def _turned(q: torch.Tensor, k: torch.Tensor, rotary: Rotary | None) -> tuple[torch.Tensor, torch.Tensor]:
    if rotary is None:
        return q, k
    rotate: Any = apply_rotary_emb  # diffusers' annotation is that of its other return
    return rotate(q, rotary, sequence_dim=1), rotate(k, rotary, sequence_dim=1)
