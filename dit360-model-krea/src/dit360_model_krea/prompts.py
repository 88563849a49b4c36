"""A prompt as Krea 2's text encoder was asked in training: what stands around it, and which tokens are kept.

diffusers pads a prompt between what stands before it and behind it. Padding is no key for anything, and takes up no
position, so that it is never computed here: neither in the text encoder nor in the transformer.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch


@attrs.frozen(kw_only=True, eq=False)
class Framed:
    """The tokens of a prompt without padding.

    ids: ``(1, T)``, of what stands before it, the prompt and what stands behind it.
    kept: ``(K,)``, where among these those are that the transformer sees.
    """

    ids: torch.Tensor
    kept: torch.Tensor


def room(pipe: Any, max_sequence_length: int) -> int:
    """Tokens of what stands before a prompt and the prompt together, as many as are read.

    pipe: of diffusers.
    max_sequence_length: tokens that the transformer sees at most.
    """
    before, behind = pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode_num_suffix_tokens
    return int(max_sequence_length + before - behind)


def framed(pipe: Any, tokenizer: Any, prompt: str, max_sequence_length: int) -> Framed:
    """A prompt between what a pipeline of diffusers puts around it. A long one is cut.

    The other arguments are those of :func:`room`.
    """
    text = pipe.prompt_template_encode_prefix + prompt
    length = room(pipe, max_sequence_length)
    given = tokenizer([text], truncation=True, padding="max_length", max_length=length, return_tensors="pt")
    behind = tokenizer([pipe.prompt_template_encode_suffix], return_tensors="pt")
    ids, real = (torch.cat([given[name], behind[name]], dim=1)[0] for name in ("input_ids", "attention_mask"))
    places = real.nonzero()[:, 0]
    # Counted with padding, which may stand in front with a tokenizer that is set to do so.
    seen = places >= pipe.prompt_template_encode_start_idx
    return Framed(ids=ids[places][None], kept=seen.nonzero()[:, 0])
