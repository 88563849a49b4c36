"""ComfyUI's LATENT and the core's: the same numbers, as ComfyUI's own nodes for a family of models have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dit360_core.errors import InputError
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Latents

from dit360_comfy import host
from dit360_comfy.kept import KeptDict
from dit360_comfy.settings import recall, remember


def to_comfy(made: Sequence[Latents], pipeline: Pipeline) -> dict[str, Any]:
    """``{"samples": (B, C, …, h, w)}`` fp32 in the form in which ComfyUI hands latents of such a model on."""
    import torch

    samples = torch.cat([pipeline.engine.to_exchanged(latents.tensor.float()) for latents in made])
    return KeptDict(samples=remember(samples.cpu(), [dict(latents.settings) for latents in made]))


def from_comfy(given: Mapping[str, Any], pipeline: Pipeline) -> Iterator[Latents]:
    """Each of a LATENT in model space, with its settings if a DiT360 Sampler made it.

    pipeline: whose model's space.

    Raises InputError for latents that are no picture's of this model.
    """
    samples = host.plain(given["samples"])
    for sample, told in zip(samples, recall(given["samples"]), strict=True):
        yield Latents(tensor=pipeline.engine.from_exchanged(sample[None]), settings=told)


def size_of(given: Mapping[str, Any], pipeline: Pipeline) -> tuple[int, int, int]:
    """Width and height in pixels, and the number, of the pictures of a LATENT.

    pipeline: whose model's they are, or are to become: an empty LATENT may be another model's, and gives its size.

    Raises InputError for latents that are no picture's.
    """
    samples = given["samples"]
    if samples.ndim not in (4, 5) or (samples.ndim == 5 and samples.shape[2] != 1):
        raise InputError(f"The latents have the shape {tuple(samples.shape)}, which is no picture's; use those of one.")
    side = int(given.get("downscale_ratio_spacial") or _side(int(samples.shape[1]), pipeline))
    return side * int(samples.shape[-1]), side * int(samples.shape[-2]), int(samples.shape[0])


def _side(channels: int, pipeline: Pipeline) -> int:
    """Pixels of a latent on each side."""
    own = pipeline.engine.exchanged_side
    return own if channels == pipeline.engine.latent_channels * (own // 8) ** 2 else 8
