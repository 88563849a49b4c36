"""Which pipelines of diffusers are of Qwen-Image, and which of them are run here. Nothing is imported for that."""

from __future__ import annotations

TITLE = "Qwen-Image"
PIPELINES = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
"""That have the parts of a model that paints from a prompt, the usual one first."""
_EDITS = "changes a picture as it is told to"
_FOLLOWS = "follows a control picture"
NEIGHBOURS = {
    "QwenImageEditPipeline": _EDITS,
    "QwenImageEditPlusPipeline": _EDITS,
    "QwenImageEditInpaintPipeline": _EDITS,
    "QwenImageLayeredPipeline": "takes a picture apart into layers",
    "QwenImageControlNetPipeline": _FOLLOWS,
    "QwenImageControlNetInpaintPipeline": _FOLLOWS,
}
"""Pipelines of the family that are not run here → what their models do instead."""
TRANSFORMERS = ("QwenImageTransformer2DModel",)
