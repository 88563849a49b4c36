"""Language models as text encoders: run once over a prompt, and read in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def hidden_states(model: Any, after: Sequence[int], **given: Any) -> list[torch.Tensor]:
    """What a decoder holds after some of its layers, each ``(1, T, dim)``.

    model: of transformers, with a list ``layers``.
    after: how many layers have run by then, 1 or more: ``hidden_states[after]`` of transformers, but for the last one,
    to which that adds the final norm.
    given: for its forward.

    Nothing else is kept: asking transformers for hidden states would keep those of all layers.
    """
    wanted, found = set(after), {}

    def keep(number: int) -> Any:
        def look(module: Any, inputs: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return look

    with _looking([(model.layers[number - 1], keep(number)) for number in wanted]), torch.no_grad():
        model(**given, use_cache=False)
    return [found[number] for number in after]


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
