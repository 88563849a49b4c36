"""DiT360Unload: memory that really returns."""

from __future__ import annotations

from typing import Any

from dit360_core.system.memory import gib, used_memory

from dit360_comfy import model
from dit360_comfy.device import give_back_memory, unload_others
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node
from dit360_comfy.pipe import pipe_of


class AnyType(str):
    """A type that fits every other: ComfyUI asks whether two differ."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


ANY = AnyType("*")


class DiT360Unload(Node):
    DISPLAY_NAME = "DiT360 Unload"
    DESCRIPTION = (
        "Drops the weights of DiT360 models from the device and from system memory, when what is connected to it is "
        "done. They are read again when they are next used."
    )
    RETURN_TYPES = (ANY, "STRING")
    RETURN_NAMES = ("value", "report")
    OUTPUT_TOOLTIPS = ("What came in, for whatever is to run after this.", "What was dropped, and what that gave back.")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "value": (ANY, {"tooltip": "What has to be done before, such as the picture; it is passed on."}),
            },
            "optional": {
                "dit360_pipe": ("DIT360_PIPE", {"tooltip": "Which model to drop. Nothing connected: all of them."}),
                "everything": ("BOOLEAN", {
                    "default": False, "tooltip": "Drop the models of ComfyUI's own loaders from the device too.",
                }),
            },
        }  # fmt: skip

    def run(self, value: Any, dit360_pipe: Any = None, everything: bool = False) -> dict[str, Any]:
        before = used_memory("cpu")
        if dit360_pipe is None:
            count = model.unload_all()
        else:
            pipe = pipe_of(dit360_pipe)
            parts = (pipe.model, pipe.vae, pipe.text_encoder)
            sources = {part.source for part in parts} | {part.alone for part in parts if part.alone is not None}
            count = sum(source.unload() for source in sources)
        if everything:
            unload_others()
        give_back_memory()
        what = f"{count} model{'' if count == 1 else 's'}" if count else "nothing, since no model was in memory"
        report = f"Dropped {what}; {gib(max(0, before - used_memory('cpu')))} of system memory came back."
        return {"ui": {"text": [report]}, "result": (value, report)}


NODES: dict[str, type[Any]] = {"DiT360Unload": DiT360Unload}
