"""Language models as text encoders: run once over a prompt, and read in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def hidden_states(model: Any, after: Sequence[int], *, normed: bool = False, **given: Any) -> list[torch.Tensor]:
    """What a decoder holds after some of its layers, each ``(1, T, dim)``.

    model: of transformers, with a list ``layers``.
    after: how many layers have run by then; 0: none, so that it is the embedding. ``hidden_states[after]`` of
    transformers, but for the last one, to which that adds the final norm.
    normed: add it here, too.
    given: for its forward.

    Nothing else is kept: asking transformers for hidden states would keep those of all layers.
    """
    wanted, found = set(after), {}

    def keep(number: int) -> Any:
        def look(module: Any, inputs: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return look

    def where(number: int) -> Any:
        if normed and number == len(model.layers):
            return model.norm
        return model.layers[number - 1] if number else model.get_input_embeddings()

    with _looking([(where(number), keep(number)) for number in wanted]), torch.no_grad():
        model(**given, use_cache=False)
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
    """A text as token numbers, padded or cut to a length, and which of them are the text's: both ``(1, length)``."""
    found = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]
