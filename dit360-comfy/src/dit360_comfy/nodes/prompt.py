"""DiT360TextEncode: a prompt becomes CONDITIONING, as ComfyUI's own encoders make it."""

from __future__ import annotations

from typing import Any

from dit360_core.options import SampleOptions
from dit360_core.system.phases import PhaseKind

from dit360_comfy.conditioning import conditioning_of
from dit360_comfy.inputs import Control, Spec, asked, specs
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.pipe import pipe_of

_LENGTH = Control(
    options=SampleOptions, option="max_sequence_length", name="max_length", unset=0,
    tooltip="Tokens that the prompt is padded or cut to. 0: the model's own, which is 512 for FLUX.",
)  # fmt: skip


class DiT360TextEncode(Node):
    DISPLAY_NAME = "DiT360 Text Encode"
    DESCRIPTION = (
        "Reads a prompt with the model's text encoders. The words that the model wants before every prompt are added "
        "by themselves. Nodes that combine, average or concatenate conditioning take the result."
    )
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The prompt, for DiT360 Sampler; ComfyUI's own samplers of such a model take it too.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        text = {"multiline": True, "dynamicPrompts": True}
        return {
            "required": {
                "dit360_pipe": pipe_input(),
                "prompt": ("STRING", {**text, "default": "a castle above a meadow at sunset",
                                      "tooltip": "What the panorama shows."}),
                "negative_prompt": ("STRING", {**text, "default": "",
                                               "tooltip": "What it must not show; used where the sampler's "
                                               "true_guidance is above 1."}),
                **specs([_LENGTH]),
            },
        }  # fmt: skip

    def run(self, dit360_pipe: Any, prompt: str, negative_prompt: str, max_length: int) -> tuple[Any]:
        source = pipe_of(dit360_pipe).text_encoder.at_hand
        options = asked([_LENGTH], {"max_length": max_length})
        with source.pipeline() as pipeline:
            source.expect(PhaseKind.TEXT, **options)
            # An empty one is read only where a sampler asks for it: few do.
            return (conditioning_of(pipeline.encode(prompt, negative_prompt=negative_prompt or None, **options)),)


NODES: dict[str, type[Any]] = {"DiT360TextEncode": DiT360TextEncode}
