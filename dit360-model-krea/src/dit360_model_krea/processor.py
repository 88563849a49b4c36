"""Krea 2's attention with any kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from dit360_core.models.running import KernelProcessor

Rotary = tuple[torch.Tensor, torch.Tensor]


class Krea2Processor(KernelProcessor):
    """For a block of the transformer: what diffusers' Krea2AttnProcessor does, but for the attention itself."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | Mapping[str, Any] | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """hidden_states: ``(B, T + S, dim)``.

        attention_mask: ``attend`` and ``key_bias`` of this call; or a mask ``(B, 1, 1, T + S)``, which diffusers' own
        pipeline gives and no kernel takes, so that this call is attended as diffusers does.
        """
        q, k, v = (
            layer(hidden_states).unflatten(-1, (-1, attn.head_dim)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            rotate: Any = apply_rotary_emb  # diffusers' annotation is that of its other return
            q, k = (rotate(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        if (shared := attn.num_heads // attn.num_kv_heads) > 1:
            k, v = (x.repeat_interleave(shared, dim=2) for x in (k, v))
        if isinstance(attention_mask, torch.Tensor):
            out = dispatch_attention_fn(q, k, v, attn_mask=attention_mask).flatten(2, 3)
        else:
            out = self.attended(q, k, v, scale=attn.head_dim**-0.5, **(attention_mask or {}))
        return attn.to_out[0](out * torch.sigmoid(attn.to_gate(hidden_states)))  # type: ignore[no-any-return]
