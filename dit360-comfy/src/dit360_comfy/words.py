"""The core's sentences in the words of nodes: it speaks of options and commands, which a graph has not."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PHRASES = (
    ("'dit360 backends' lists them", "The node DiT360 Backends lists them"),
    ("; leave it out, or", "; set it back to its default, or"),
    ("or leave it out", "or set it back to its default"),
    ("leave it out", "set it back to its default"),
    ("leave one of them out", "set one of them back to its default"),
    ("encode the prompt with this model's text encoders", "use DiT360 Text Encode with this model"),
    ("give the folder that FluxPipeline.save_pretrained wrote", "give a folder of FLUX in the form of diffusers"),
    ("Equirect360Process", "Equirect 360 Process"),
)


def in_words_of_nodes(sentence: str, names: Mapping[str, str]) -> str:
    """names: what options are called as inputs, where that differs."""
    for option, name in names.items():
        # Where it is said of the option what it is, and not in a path or another word.
        sentence = re.sub(rf"(?<![\w/\\.'-]){option}(?==|\s(?:is|must)\b)", name, sentence)
    for phrase, other in _PHRASES:
        sentence = sentence.replace(phrase, other)
    return sentence
