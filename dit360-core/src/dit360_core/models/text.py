"""Language models as text encoders: run once over a prompt, and read in the middle."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def language_model(encoder: Any) -> Any:
    """The decoder with its list of ``layers``, in whatever of transformers somebody's own pipeline holds."""
    while not hasattr(encoder, "layers"):
        encoder = encoder.language_model if hasattr(encoder, "language_model") else encoder.model
    return encoder


def hidden_states(encoder: Any, after: Sequence[int], *, normed: bool = False, **given: Any) -> list[torch.Tensor]:
    """What a decoder holds after some of its layers, each ``(1, T, dim)``.

    encoder: of transformers: the decoder, or a larger model around it. That is called as a whole, since what brings its
    weights waits for that.
    after: how many layers have run by then; 0: none, so that it is the embedding. ``hidden_states[after]`` of
    transformers, but for the last one, to which that adds the final norm.
    normed: add it here, too.
    given: for its forward.

    Nothing else is kept: asking transformers for hidden states would keep those of all layers.
    """
    model = language_model(encoder)
    wanted, found = set(after), {}

    here = threading.get_ident()

    def keep(number: int) -> Any:
        def look(module: Any, inputs: Any, output: Any) -> None:
            # Another thread may read a prompt with the same encoder meanwhile.
            if threading.get_ident() == here:
                found[number] = output[0] if isinstance(output, tuple) else output

        return look

    def where(number: int) -> Any:
        if normed and number == len(model.layers):
            return model.norm
        return model.layers[number - 1] if number else model.get_input_embeddings()

    # Of what it would answer nothing is wanted; the fewest that can be asked for is one word.
    short = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(encoder.forward).parameters else {}
    with _looking([(where(number), keep(number)) for number in wanted]), torch.no_grad():
        encoder(**given, **short, use_cache=False)
    return [found[number] for number in after]


def run_on_shapes(model: Any, tokens: int, kept: int) -> torch.Tensor:
    """What :func:`hidden_states` holds at its worst, on the meta device: a run of all layers that there are.

    tokens: of the prompt.
    kept: how many states are kept, the last one included.
    """
    shape = (1, tokens, model.config.hidden_size)
    states = [torch.empty(shape, dtype=model.dtype, device="meta") for _ in range(kept - 1)]
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    # As transformers makes it of one that tells padding; made here, since it looks into what there is.
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    last = model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    return torch.cat([*states, last], dim=-1)


@contextmanager
def _looking(pairs: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(look) for module, look in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def padded(tokenizer: Any, text: str, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A text as token numbers, padded or cut to a length, and which of them are the text's: both ``(1, length)``.

    text: with the marks that stand around it, to which none is added.
    """
    found = tokenizer(
        text, padding="max_length", truncation=True, max_length=length, return_tensors="pt", add_special_tokens=False
    )
    return found["input_ids"], found["attention_mask"]
