"""What the nodes have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from dit360_comfy import inputs


class Node:
    """A node whose inputs are checked before a graph runs: one sentence at the node, and nothing was started.

    FREE: drop-downs that take other values than those they list, because workflows come from other machines. run: the
    node's work, with its inputs by name.
    """

    CATEGORY = "dit360"
    FUNCTION = "execute"
    FREE: ClassVar[tuple[str, ...]] = ()
    run: Callable[..., Any]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def VALIDATE_INPUTS(cls, **given: Any) -> bool:
        """Raises InputError. An answer would be told once for each input; an exception is told once."""
        inputs.check(cls, given, free=cls.FREE)
        cls.check(given)
        return True

    def execute(self, **given: Any) -> Any:
        """What ComfyUI calls. Inputs that are linked have their values only now, and are looked at now."""
        self.VALIDATE_INPUTS(**given)
        return self.run(**given)

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        """Raises InputError for values that do not go together. Inputs that are linked are None."""


def pipe_input() -> inputs.Spec:
    return "DIT360_PIPE", {"tooltip": "A model: of DiT360 Loader, or of a node that changed what it gave."}
