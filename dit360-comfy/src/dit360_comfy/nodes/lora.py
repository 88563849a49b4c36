"""DiT360LoRALoader: another LoRA, beside the weights that are there."""

from __future__ import annotations

from typing import Any, ClassVar

from dit360_core.errors import InputError

from dit360_comfy import host
from dit360_comfy.inputs import Spec
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.pipe import pipe_of

NONE = "none"


class DiT360LoRALoader(Node):
    DISPLAY_NAME = "DiT360 LoRA Loader"
    DESCRIPTION = (
        "Puts a LoRA beside the model's weights, whatever those are stored in; several in a row add up. The weights "
        "themselves stay as they are: another strength reads nothing again, and taking it away leaves nothing behind."
    )
    RETURN_TYPES = ("DIT360_PIPE",)
    OUTPUT_TOOLTIPS = ("The model with the LoRA. The one that came in stays without it.",)
    FREE: ClassVar[tuple[str, ...]] = ("lora_path",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "lora_path": ([NONE, *host.files("loras")], {
                    "default": NONE,
                    "tooltip": "A LoRA for this model, from models/loras.",
                }),
                "strength": ("FLOAT", {
                    "default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05, "round": 0.01,
                    "tooltip": "How strongly it is applied. 0: not at all.",
                }),
                "merge_mode": (["merge", "unmerge"], {
                    "default": "merge",
                    "tooltip": "merge: apply it. unmerge: take away what an earlier DiT360 LoRA Loader applied of "
                    "this file.",
                }),
            },
        }  # fmt: skip

    def run(self, dit360_pipe: Any, lora_path: str, strength: float, merge_mode: str) -> tuple[Any]:
        pipe = pipe_of(dit360_pipe)
        if lora_path in ("", NONE):
            return (pipe,)
        file = host.file_of("loras", lora_path)
        before = pipe.model.loras
        if merge_mode == "unmerge":
            left = tuple(lora for lora in before if lora[0] != file)
            if left == before:
                there = ", ".join(name for name, _ in before) or "none"
                raise InputError(
                    f"{lora_path} cannot be taken away, because no DiT360 LoRA Loader before this one applied it "
                    f"(applied: {there}); one that the model was loaded with is chosen in DiT360 Loader."
                )
            return (pipe.with_loras(left),)
        with host.plain_mode():
            pipe.model.source.prepared.check_lora(file)
        return (pipe.with_loras((*before, (file, round(strength, 4)))),)


NODES: dict[str, type[Any]] = {"DiT360LoRALoader": DiT360LoRALoader}
