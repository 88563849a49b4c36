"""What gives ComfyUI's own models a panorama without a seam, and the registry's attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dit360_core.plugins.registry import default_registry

from dit360_comfy import host, native_attention, native_lora, native_padding, native_vae
from dit360_comfy.choices import choices
from dit360_comfy.laying import latent_mask
from dit360_comfy.nodes.base import Node
from dit360_comfy.nodes.spherical import degrees

if TYPE_CHECKING:
    import torch

CATEGORY = "dit360/native"


def dit360_lora() -> str:
    """The Hub id of DiT360's own."""
    (known,) = default_registry().find("model", "dit360")
    return str(known.offer.lora)


class DiT360Attention(Node):
    """MODEL → MODEL with the registry's attention."""

    CATEGORY = CATEGORY
    DISPLAY_NAME = "DiT360 Attention"
    DESCRIPTION = (
        "Makes a model compute attention with a backend of dit360, chosen and tried for what the model asks. "
        "The backends agree within rounding; they differ in speed and memory. Other models are left as they are."
    )
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with this attention.",)
    FREE: ClassVar[tuple[str, ...]] = ("attention_backend",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        found = choices("attention", first=["auto"])
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model, as ComfyUI's loaders give it; fp8 and GGUF are fine."}),
                "attention_backend": (
                    list(found.names),
                    {
                        "default": "auto",
                        "tooltip": "What computes attention. auto: the best that works here. "
                        f"{found.unavailable}".strip(),
                    },
                ),
                "attention_slice_size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 65536,
                        "tooltip": "Queries at a time; 0: all at once. Saves memory with backends that store all "
                        "scores, such as eager.",
                    },
                ),
                "strict": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Whether a backend that cannot run is an error. Otherwise another is used, and the "
                        "log says why.",
                    },
                ),
            }
        }

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        if given.get("attention_backend") not in (None, "auto"):
            default_registry().find("attention", given["attention_backend"])

    def run(self, model: Any, attention_backend: str, attention_slice_size: int, strict: bool) -> tuple[Any]:
        return (native_attention.with_attention(model, attention_backend, attention_slice_size, strict),)


class DiT360CircularPadding(Node):
    """MODEL → MODEL that wraps in longitude."""

    CATEGORY = CATEGORY
    DISPLAY_NAME = "DiT360 Circular Padding"
    DESCRIPTION = (
        "Lets FLUX.1, FLUX.2, Qwen-Image or Krea 2 see a panorama's left and right edge as neighbours, in every step "
        "of any sampler. Give the model a LoRA for panoramas and latents of 2:1. With DiT360's for FLUX.1 (2048×1024 "
        "pixels was trained) go a guidance of 2.8 and a prompt that begins with 'This is a panorama. The image shows'. "
        "This node leaves the noise levels alone: DiT360's come from ModelSamplingFlux with max_shift 1.15, "
        "base_shift 0.5 and the padded size, 2080×1024 for 2048×1024 (32 pixels more for each column of padding). "
        "Decode with DiT360 VAE Decode (seamless), since ComfyUI's own does not wrap."
    )
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model that wraps; the model as it was if the padding is 0.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A model with a LoRA for panoramas, as ComfyUI's loaders give it."}),
                "circular_padding": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 100,
                        "tooltip": "Columns of tokens (16 pixels) that are repeated on either side. 1: as DiT360 was "
                        "trained; 0: none.",
                    },
                ),
            }
        }

    def run(self, model: Any, circular_padding: int) -> tuple[Any]:
        return (native_padding.with_padding(model, circular_padding),)


class DiT360NativeLoRA(Node):
    """MODEL → MODEL with a LoRA."""

    CATEGORY = CATEGORY
    DISPLAY_NAME = "DiT360 LoRA (native models)"
    DESCRIPTION = (
        "Applies a LoRA to FLUX.1, FLUX.2, Qwen-Image or Krea 2 of ComfyUI's own loaders, whatever names its layers go "
        "by: ComfyUI's LoRA loader passes over those of DiT360's. A LoRA of which nothing fits is an error."
    )
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with the LoRA.",)
    FREE: ClassVar[tuple[str, ...]] = ("lora_path",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        own = dit360_lora()
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A model, as ComfyUI's loaders give it; fp8 and GGUF are fine."}),
                "lora_path": (
                    [own, *host.files("loras")],
                    {
                        "default": own,
                        "tooltip": "A LoRA for this model, from models/loras. The first is DiT360's, for FLUX.1, "
                        "which is downloaded once from the Hugging Face Hub.",
                    },
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -2.0,
                        "max": 2.0,
                        "step": 0.05,
                        "round": 0.01,
                        "tooltip": "How strongly it is applied. 0: not at all.",
                    },
                ),
            }
        }

    def run(self, model: Any, lora_path: str, strength: float) -> tuple[Any]:
        if not strength:
            return (model,)
        return (native_lora.with_lora(model, host.file_of("loras", lora_path), strength),)


class DiT360VAEDecode(Node):
    """LATENT → IMAGE without a seam."""

    CATEGORY = CATEGORY
    DISPLAY_NAME = "DiT360 VAE Decode (seamless)"
    DESCRIPTION = (
        "Decodes a panorama so that its left and right edge meet exactly, in as much memory as there is: where one "
        "piece does not fit, it is decoded in parts that give the very same picture. For the VAEs of FLUX.1, FLUX.2, "
        "Qwen-Image, Krea 2, SD3, SDXL and SD 1.5."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The panorama.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latents of a panorama."}),
                "vae": ("VAE", {"tooltip": "The VAE that belongs to the model."}),
            }
        }

    def run(self, samples: dict[str, torch.Tensor], vae: Any) -> tuple[torch.Tensor]:
        return (native_vae.decode_seamless(vae, samples["samples"]),)


class DiT360VAEEncode(Node):
    """IMAGE → LATENT without a seam."""

    CATEGORY = CATEGORY
    DISPLAY_NAME = "DiT360 VAE Encode (seamless)"
    DESCRIPTION = (
        "Encodes a panorama so that its left and right edge stay neighbours, in as much memory as there is. With a "
        "mask, samplers make anew what that covers, over the edges too, and keep the rest."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The latents of the panorama, with the mask if there is one.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pixels": ("IMAGE", {"tooltip": "A panorama; its sides are multiples of 8 pixels, of 16 for FLUX.2."}),
                "vae": ("VAE", {"tooltip": "The VAE that belongs to the model."}),
            },
            "optional": {
                "mask": (
                    "MASK",
                    {"tooltip": "What is to be made anew (1), as for VAE Encode (for Inpainting): the rest is kept."},
                ),
                "mask_grow": degrees(
                    -1.0,
                    -1.0,
                    90.0,
                    "Degrees on the sphere by which the mask grows. -1: 8 pixels. A mask of DiT360 Photo to Panorama "
                    "stays as it is.",
                    0.5,
                ),
            },
        }

    def run(
        self, pixels: torch.Tensor, vae: Any, mask: Any = None, mask_grow: float = -1.0
    ) -> tuple[dict[str, torch.Tensor]]:
        noise_mask = None if mask is None else latent_mask(pixels, mask, mask_grow)
        samples = native_vae.encode_seamless(vae, pixels)
        if noise_mask is None:
            return ({"samples": samples},)
        return ({"samples": samples, "noise_mask": native_vae.mask_for(samples, noise_mask)},)


NODES: dict[str, type[Any]] = {
    "DiT360Attention": DiT360Attention,
    "DiT360CircularPadding": DiT360CircularPadding,
    "DiT360NativeLoRA": DiT360NativeLoRA,
    "DiT360VAEDecode": DiT360VAEDecode,
    "DiT360VAEEncode": DiT360VAEEncode,
}
