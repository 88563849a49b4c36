"""ComfyUI's LATENT and the core's: the same numbers, scaled and shifted."""

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
    """``{"samples": (B, C, H/8, W/8)}`` fp32 as the autoencoder has them, which is how ComfyUI hands latents on."""
    import torch

    samples = torch.cat([pipeline.engine.to_stored(latents.tensor.float()) for latents in made])
    return KeptDict(samples=remember(samples.cpu(), [dict(latents.settings) for latents in made]))


def from_comfy(given: Mapping[str, Any], pipeline: Pipeline) -> Iterator[Latents]:
    """Each of a LATENT in model space, with its settings if a DiT360 Sampler made it.

    pipeline: whose model's space.

    Raises InputError for latents that are no panorama's.
    """
    size_of(given)
    samples = host.plain(given["samples"])
    if samples.shape[1] != pipeline.engine.latent_channels:
        raise InputError(
            f"The latents have {samples.shape[1]} channels, and this model's have {pipeline.engine.latent_channels}; "
            "encode the picture with DiT360 Encode, or with FLUX's autoencoder."
        )
    for sample, told in zip(samples, recall(given["samples"]), strict=True):
        yield Latents(tensor=pipeline.engine.from_stored(sample[None]), settings=told)


def size_of(given: Mapping[str, Any]) -> tuple[int, int, int]:
    """Width and height in pixels, and the number, of the pictures of a LATENT. Raises InputError."""
    samples = given["samples"]
    if samples.ndim != 4:
        raise InputError(f"The latents have the shape {tuple(samples.shape)}, which is no picture's; use those of one.")
    return 8 * int(samples.shape[3]), 8 * int(samples.shape[2]), int(samples.shape[0])
