"""DiT360Decode and DiT360Encode: between latents and pictures, without a seam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dit360_core.options import DecodeOptions, build, check_size
from dit360_core.plugins.registry import default_registry
from dit360_core.system.phases import PhaseKind

from dit360_comfy import host
from dit360_comfy.edges import blended
from dit360_comfy.inputs import Control, Spec, asked, specs
from dit360_comfy.keeping import kept_by
from dit360_comfy.latents import from_comfy, to_comfy
from dit360_comfy.nodes.base import Node, pipe_input
from dit360_comfy.pictures import of_batch, pictures
from dit360_comfy.pipe import Pipe, pipe_of
from dit360_comfy.settings import remember

_TILING = (
    Control(options=DecodeOptions, option="tiling_mode"),
    Control(options=DecodeOptions, option="tile_size_override"),
    Control(options=DecodeOptions, option="tile_overlap_override"),
    Control(options=DecodeOptions, option="max_tile_pixels_override", settings={"step": 1048576}),
    Control(options=DecodeOptions, option="tiling_backend"),
    Control(options=DecodeOptions, option="tiling_level"),
)
_ADVANCED = ("tiling_backend", "tiling_level")


class _Autoencoding(Node):
    FREE: ClassVar[tuple[str, ...]] = ("tiling_backend",)

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        options = build(DecodeOptions, asked(_TILING, given))
        if options.tiling_backend != "auto":
            default_registry().find("tiling", options.tiling_backend)


class DiT360Decode(_Autoencoding):
    DISPLAY_NAME = "DiT360 Decode"
    DESCRIPTION = (
        "Latents become a panorama that continues over its left and right edge, in tiles where it is large. The tiles "
        "change nothing: the picture is that of one piece."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The panorama, twice as wide as high.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "Of DiT360 Sampler, or of any sampler of such a model."}),
                "dit360_pipe": pipe_input(),
                "auto_blend_edges": ("BOOLEAN", {
                    "default": False,
                    "tooltip": "Even out the step over the left and right edge, if there is one that shows. Decoding "
                    "wraps around and makes none, so this is for latents that have one. It stays where it is, and is "
                    "told in the log.",
                }),
            },
            "optional": specs(_TILING, advanced=_ADVANCED),
        }  # fmt: skip

    def run(self, samples: Any, dit360_pipe: Any, auto_blend_edges: bool, **given: Any) -> tuple[Any]:
        import torch

        pipe = pipe_of(dit360_pipe)
        options = tiling_options(pipe, given)
        images: list[torch.Tensor] = []
        settings = []
        kept = kept_by(samples["samples"])
        source = pipe.vae.at_hand
        with source.pipeline() as pipeline:
            for latents in from_comfy(samples, pipeline):
                check_size(*latents.size)
                source.expect(PhaseKind.DECODE, width=latents.width, height=latents.height, **options)
                decoded = pipeline.decode_pixels(latents, **options)
                pixels, told = decoded.tensor, dict(decoded.settings)
                if kept:
                    keeping = of_batch(kept, len(images))
                    with host.slow_things_shown():
                        pixels, told = keeping(pixels), keeping.told_in(told)
                image = pixels.permute(0, 2, 3, 1)
                if auto_blend_edges:
                    image, (told["edges"],) = blended(image, width=10, mode="cosine")
                images.append(image)
                settings.append(told)
        return (remember(torch.cat(images).contiguous(), settings),)


class DiT360Encode(_Autoencoding):
    DISPLAY_NAME = "DiT360 Encode"
    DESCRIPTION = "A panorama becomes latents to begin another with (the sampler's latent_image, with denoise below 1)."
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The latents of the panorama, as seamless as it is.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Spec]]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "A panorama, twice as wide as high, in multiples of 16 pixels."}),
                "dit360_pipe": pipe_input(),
            },
            "optional": specs(_TILING, advanced=_ADVANCED),
        }

    def run(self, image: Any, dit360_pipe: Any, **given: Any) -> tuple[Any]:
        pipe = pipe_of(dit360_pipe)
        options = tiling_options(pipe, given)
        pixels = pictures(image, "image")
        source = pipe.vae.at_hand
        with source.pipeline() as pipeline:
            made = []
            for one in pixels:
                width, height = int(one.shape[-1]), int(one.shape[-2])
                check_size(width, height)
                source.expect(PhaseKind.ENCODE, given=True, width=width, height=height, **options)
                made.append(pipeline.encode_image(one[None], **options))
            return (to_comfy(made, pipeline),)


def tiling_options(pipe: Pipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The core's options for a decoding: what the node says, or else the pipe, or else the loader."""
    found = asked(_TILING, given)
    for option, unset, of_pipe in (
        ("tile_size_override", 0, pipe.vae_tile_size),
        ("tile_overlap_override", -1, pipe.vae_tile_overlap),
        ("max_tile_pixels_override", -1, pipe.vae_auto_tile_pixels),
    ):
        if found.get(option, unset) == unset:
            found[option] = of_pipe
    return found


NODES: dict[str, type[Any]] = {"DiT360Decode": DiT360Decode, "DiT360Encode": DiT360Encode}
