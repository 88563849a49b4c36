"""A prompt as FLUX.2's text encoders were asked in training: what stands around it, and which layers are read.

The frames are the chat formats of Qwen3 (a user's message, an answer that does not think first) and of Mistral's
instruction models; diffusers' pipelines make them with the tokenizer's own template, which is not run here, since it
would be a program from a model's folder.
"""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

KLEIN_LAYERS, DEV_LAYERS = (9, 18, 27), (10, 20, 30)
"""How many layers have run where Qwen3 (of 36), and Mistral (of 40), are read."""


def klein_text(prompt: str) -> str:
    """A prompt in Qwen3's format."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def dev_text(prompt: str) -> str:
    """A prompt in Mistral's format. What would stand for a picture is left out, as diffusers does."""
    words = prompt.replace("[IMG]", "")
    return f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]{words}[/INST]"


def layers_read(config: Any, *, dev: bool) -> tuple[int, int, int]:
    """How many layers have run where a text encoder is read: a quarter, half and three quarters of all.

    config: of the language model.
    dev: whether it is that of FLUX.2 [dev].

    In a model that has all of them they are the pipelines' own, whatever stands behind.
    """
    own = DEV_LAYERS if dev else KLEIN_LAYERS
    count = int(config.num_hidden_layers)
    if count >= own[-1]:
        return own
    first, second, third = (max(1, count * quarter // 4) for quarter in (1, 2, 3))
    return first, second, third
