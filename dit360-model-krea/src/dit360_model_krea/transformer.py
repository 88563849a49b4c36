"""diffusers' Krea2Transformer2DModel, which gives its blocks no words for their attention, as one that does.

The words of a call travel with it, so that pictures with other kernels may share a transformer, in other threads too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Krea2Transformer2DModel

WORDS = ("attend", "key_bias")
"""Of ``attention_kwargs``, what is given to the blocks."""


class Addressed:
    """What a Krea2Transformer2DModel gets in front (:func:`addressed_class`)."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        position_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        attention_kwargs: Mapping[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers' own, which it is as long as there is nothing to give to the blocks.

        attention_kwargs: ``attend``, a kernel, and ``key_bias``, as for
        :class:`~dit360_model_krea.processor.Krea2Processor`; with these, all tokens of the prompt must be valid.
        """
        said = dict(attention_kwargs or {})
        words = {name: said.pop(name) for name in WORDS if name in said}
        if not words:
            return super().forward(  # type: ignore[misc]
                hidden_states,
                encoder_hidden_states,
                timestep,
                position_ids,
                encoder_attention_mask=encoder_attention_mask,
                attention_kwargs=said or None,
                return_dict=return_dict,
            )
        if encoder_attention_mask is not None or said:
            raise ValueError("with a kernel for one call there can be no mask, and no other attention_kwargs")
        found = _forward(self, hidden_states, encoder_hidden_states, timestep, position_ids, words)
        return type(self).made(found) if return_dict else (found,)  # type: ignore[attr-defined]


def _forward(
    model: Any,
    tokens: torch.Tensor,
    text: torch.Tensor,
    timestep: torch.Tensor,
    position_ids: torch.Tensor,
    words: Mapping[str, Any],
) -> torch.Tensor:
    time = model.time_embed(timestep, dtype=tokens.dtype)
    modulation = model.time_mod_proj(F.gelu(time, approximate="tanh"))
    read = model.txt_in(model.text_fusion(text))
    x = torch.cat([read, model.img_in(tokens)], dim=1)
    rotary = model.rotary_emb(position_ids)
    for block in model.transformer_blocks:
        # In the place of a mask, which blocks and hooks hand on as it is.
        x = block(x, modulation, rotary, words)
    return model.final_layer(x[:, text.shape[1] :], time)  # type: ignore[no-any-return]


@functools.cache
def addressed_class(made_of: Any) -> Any:
    """A class of the same name, so that diffusers saves it as its own.

    made_of: Krea2Transformer2DModel, or one that is derived from it.
    """
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    told = {"__module__": made_of.__module__, "__doc__": made_of.__doc__, "made": Transformer2DModelOutput}
    return type(made_of.__name__, (Addressed, made_of), told)


def address(transformer: Any) -> None:
    """A transformer that is loaded becomes such a one, and stays as it is otherwise, hooks included."""
    if not isinstance(transformer, Krea2Transformer2DModel) or isinstance(transformer, Addressed):
        return
    transformer.__class__ = addressed_class(type(transformer))
    # Hooks of accelerate and of diffusers hold the method that they run, which is that of the class before.
    registry = getattr(transformer, "_diffusers_hook", None)
    kept = [(one, name) for one in getattr(registry, "_fn_refs", ()) for name in ("forward", "original_forward")]
    holders = [(transformer, "_old_forward"), *kept]
    for holder, name in holders:
        held = vars(holder).get(name)
        if isinstance(held, MethodType) and held.__self__ is transformer:
            setattr(holder, name, MethodType(type(transformer).forward, transformer))
