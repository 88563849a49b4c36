"""The core's sentences in the words of nodes: they mark options and advice, and a graph has inputs and no commands."""

from __future__ import annotations

from collections.abc import Mapping

from dit360_core.errors.sentences import Surface

_ADVICE = {
    "leave_out": "set it back to its default",
    "leave_one_of_them_out": "set one of them back to its default",
    "list_backends": "The node DiT360 Backends lists them",
    "see_backends": "the node DiT360 Backends tells of each",
    "encode_with_this_model": "use DiT360 Text Encode with this model",
    "give_diffusers_folder": "give a model's folder in the form of diffusers",
}


class WordsOfNodes(Surface):
    """How a node says it."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """names: option of the core → what the node calls it, where that differs."""
        self._names = names or {}

    def option(self, name: str) -> str:
        """The name of its input.

        name: as Python calls it.
        """
        return self._names.get(name, name)

    def remedy(self, code: str) -> str:
        """What to do in a graph.

        code: of :data:`dit360_core.errors.sentences.REMEDIES`.
        """
        return _ADVICE.get(code) or super().remedy(code)
