"""What the nodes have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from dit360_core.errors import Dit360Error
from dit360_core.errors.sentences import worded

from dit360_comfy import inputs
from dit360_comfy.words import WordsOfNodes


class Node:
    """A node whose inputs are checked before a graph runs: one sentence at the node, and nothing was started.

    FREE: drop-downs that take other values than those they list, because workflows come from other machines.
    run: the node's work, with its inputs by name.
    WORDS: option of the core → what the node calls it, where that differs.
    """

    CATEGORY = "dit360"
    FUNCTION = "execute"
    FREE: ClassVar[tuple[str, ...]] = ()
    WORDS: ClassVar[Mapping[str, str]] = {}
    run: Callable[..., Any]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def VALIDATE_INPUTS(cls, **given: Any) -> bool:
        """Raises InputError. An answer would be told once for each input; an exception is told once."""
        with cls._told():
            inputs.check(cls, given, free=cls.FREE)
            cls.check(given)
        return True

    def execute(self, **given: Any) -> Any:
        """What ComfyUI calls. Inputs that are linked have their values only now, and are looked at now."""
        self.VALIDATE_INPUTS(**given)
        with self._told():
            return self.run(**given)

    @classmethod
    @contextmanager
    def _told(cls) -> Iterator[None]:
        """Errors of the core in this block are told in words of nodes."""
        try:
            yield
        except Dit360Error as error:
            error.args = (worded(error.sentence, WordsOfNodes(cls.WORDS)), *error.args[1:])
            raise

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        """Raises InputError for values that do not go together. Inputs that are linked are None; those that could be
        linked and are not, are not there."""


def pipe_input() -> inputs.Spec:
    return "DIT360_PIPE", {"tooltip": "A model: of DiT360 Loader, or of a node that changed what it gave."}
