"""FLUX's attention, attached to each module of one transformer: nothing global, any kernel, one at a time or per call.

The processor does what diffusers' FluxAttnProcessor does up to the attention itself, which it gives to a plain
callable ``attend(q, k, v, *, scale)``. That callable is fixed when a pipeline is loaded; one call of the transformer
may bring its own through ``joint_attention_kwargs={"attend": …}``, and so may ``key_bias``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from dit360_core.errors import Dit360Error
from dit360_core.models.attention import KernelProcessor
from dit360_core.plugins.offers import Attend


class AttentionProcessor(KernelProcessor):
    """For ``FluxTransformer2DModel.set_attn_processor``."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        attend: Attend | None = None,
        key_bias: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """hidden_states ``(B, S, dim)``; with encoder_hidden_states ``(B, T, dim)`` both are attended jointly.

        attend: the kernel of this call only.
        key_bias: ``(T + S,)`` fp32, added to the scores of each key.
        """
        if attention_mask is not None:
            raise Dit360Error("FLUX attention takes no mask, but one was given; remove it.")

        q, k, v = self._heads(attn, hidden_states, "to_qkv", ("to_q", "to_k", "to_v"))
        q, k = attn.norm_q(q), attn.norm_k(k)
        text = 0
        if encoder_hidden_states is not None:
            text = encoder_hidden_states.shape[1]
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            text_q, text_k, text_v = self._heads(attn, encoder_hidden_states, "to_added_qkv", names)
            q = torch.cat([attn.norm_added_q(text_q), q], dim=1)
            k = torch.cat([attn.norm_added_k(text_k), k], dim=1)
            v = torch.cat([text_v, v], dim=1)
        if image_rotary_emb is not None:
            rotate: Any = apply_rotary_emb  # diffusers' annotation is that of its other return
            q = rotate(q, image_rotary_emb, sequence_dim=1)
            k = rotate(k, image_rotary_emb, sequence_dim=1)

        out = self.attended(q, k, v, scale=attn.head_dim**-0.5, attend=attend, key_bias=key_bias)

        if encoder_hidden_states is None:
            return out
        text_out, image_out = out.split_with_sizes([text, out.shape[1] - text], dim=1)
        image_out = attn.to_out[1](attn.to_out[0](image_out.contiguous()))
        return image_out, attn.to_add_out(text_out.contiguous())

    @staticmethod
    def _heads(attn: Any, x: torch.Tensor, fused: str, separate: tuple[str, str, str]) -> tuple[torch.Tensor, ...]:
        """Three projections of ``(B, S, dim)`` as ``(B, S, H, D)``."""
        if attn.fused_projections:
            parts = getattr(attn, fused)(x).chunk(3, dim=-1)
        else:
            parts = tuple(getattr(attn, name)(x) for name in separate)
        return tuple(part.unflatten(-1, (-1, attn.head_dim)) for part in parts)
