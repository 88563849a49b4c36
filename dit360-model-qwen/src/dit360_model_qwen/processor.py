"""Qwen-Image's attention with any kernel."""

from __future__ import annotations

from typing import Any

import torch
from dit360_core.models.running import KernelProcessor, quiet
from dit360_core.plugins import Attend

with quiet():  # diffusers is loud when it is imported
    from diffusers.models.transformers.transformer_qwenimage import (
        QwenDoubleStreamAttnProcessor2_0,
        apply_rotary_emb_qwen,
    )


class QwenProcessor(KernelProcessor):
    """What diffusers' QwenDoubleStreamAttnProcessor2_0 does up to the attention itself."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        attend: Attend | None = None,
        key_bias: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_states ``(B, S, dim)`` and encoder_hidden_states ``(B, T, dim)`` are attended jointly.

        encoder_hidden_states_mask: which words are there, ``(B, T)``; None: all, as in every call of ours. diffusers'
        own pipelines pad prompts of different lengths, and then its own attention runs.
        attend, key_bias: of this call.
        """
        if encoder_hidden_states_mask is not None or attention_mask is not None:
            own: Any = QwenDoubleStreamAttnProcessor2_0
            return own()(  # type: ignore[no-any-return]
                attn,
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                attention_mask,
                image_rotary_emb,
            )
        head_dim = attn.inner_dim // attn.heads
        q, k, v = (_heads(layer(hidden_states), head_dim) for layer in (attn.to_q, attn.to_k, attn.to_v))
        text_q, text_k, text_v = (
            _heads(layer(encoder_hidden_states), head_dim)
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        text_q, text_k = attn.norm_added_q(text_q), attn.norm_added_k(text_k)
        if image_rotary_emb is not None:
            image, words = image_rotary_emb
            q, k = _turned(q, image), _turned(k, image)
            text_q, text_k = _turned(text_q, words), _turned(text_k, words)
        q, k, v = torch.cat([text_q, q], dim=1), torch.cat([text_k, k], dim=1), torch.cat([text_v, v], dim=1)
        out = self.attended(q, k, v, scale=head_dim**-0.5, attend=attend, key_bias=key_bias)
        text = encoder_hidden_states.shape[1]
        text_out, image_out = out.split_with_sizes([text, out.shape[1] - text], dim=1)
        made = attn.to_out[0](image_out.contiguous())
        for layer in attn.to_out[1:]:  # what drops numbers in training
            made = layer(made)
        return made, attn.to_add_out(text_out.contiguous())


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """``(B, S, dim)`` → ``(B, S, H, D)``."""
    return x.view(*x.shape[:-1], -1, head_dim)


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """``(B, S, H, D)``, each pair of channels rotated by complex ``(S, D/2)``, or as many cosines and sines."""
    if torch.compiler.is_compiling() and not turns.is_complex():
        cosine, sine = turns[:, None].unbind(-1)
        a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2).to(x.dtype)
    rotate: Any = apply_rotary_emb_qwen  # diffusers' annotation is that of its other return
    return rotate(x, turns if turns.is_complex() else torch.view_as_complex(turns), use_real=False)  # type: ignore[no-any-return]
