"""ComfyUI's autoencoder, run by the core: circular in longitude, and exact at whatever memory there is.

ComfyUI's own decode pads with zeros at the meridian, and falls back to tiles that never wrap. Here the autoencoder's
weights are given to the core in a module of diffusers' (:mod:`dit360_comfy.native_autoencoders`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError
from dit360_core.planning.tiling import choose_tiling
from dit360_core.plugins.offers import TilingSettings
from dit360_core.plugins.registry import default_registry
from dit360_core.system.dtypes import precision_of

from dit360_comfy.native_attention import machine_of
from dit360_comfy.native_autoencoders import as_diffusers, is_of_frames, refusal

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

PIXELS = 8
"""Pixels to a latent column inside of every autoencoder that can be taken here."""


def decode_seamless(vae: Any, samples: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE stores them → IMAGE ``(B, H, W, 3)`` in 0 … 1, on ComfyUI's device for it.

    vae: ComfyUI's.
    samples: ``(B, C, h, w)``, or ``(B, C, 1, h, w)`` for Qwen-Image's and Krea 2's. Rolling them by one column rolls
    the picture by eight pixels, by sixteen for FLUX.2's.

    Raises InputError.
    """
    import torch

    kl = _ready(vae)
    samples = _pictures(vae, kl, samples)
    side = PIXELS * _patch(kl)
    height, width = (side * n for n in samples.shape[2:])
    kl = _brought(vae, vae.memory_used_decode(_as_stored(vae, samples[:1]).shape, vae.vae_dtype))
    tiling = _tiling(vae, kl, width, height)
    pictures = [
        vae.process_output(tiling.decode(kl, _unpacked(kl, one)).to(vae.output_device).float())
        for one in _one_by_one(vae, samples)
    ]
    return torch.cat(pictures).movedim(1, -1)


def encode_seamless(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """IMAGE ``(B, H, W, 3)`` in 0 … 1 → latents as the VAE stores them, of each picture for itself.

    Raises InputError.
    """
    import torch

    kl = _ready(vae)
    side = PIXELS * _patch(kl)
    if pixels.ndim != 4 or pixels.shape[1] % side or pixels.shape[2] % side:
        raise InputError(
            f"A picture of the shape {tuple(pixels.shape)} cannot be encoded without cutting its edges off: height and "
            f"width must be multiples of {side} pixels; resize it."
        )
    shape = _as_stored(vae, pixels[:1, ..., :3].movedim(-1, 1)).shape
    kl = _brought(vae, vae.memory_used_encode(shape, vae.vae_dtype))
    tiling = _tiling(vae, kl, pixels.shape[2], pixels.shape[1])
    latents = [
        _packed(kl, tiling.encode(kl, vae.process_input(one))).to(vae.output_device).float()
        for one in _one_by_one(vae, pixels[..., :3].movedim(-1, 1))
    ]
    return _as_stored(vae, torch.cat(latents))


def mask_for(samples: torch.Tensor, noise_mask: torch.Tensor) -> torch.Tensor:
    """A noise_mask ``(B, 1, H/8, W/8)``, 1 being made anew, as ComfyUI reads one for these latents.

    A latent of 16 pixels is made anew if any of its pixels is. With an axis of frames ComfyUI would take a batch of
    masks for one film.
    """
    import torch

    coarser = noise_mask.shape[-1] // samples.shape[-1]
    if coarser > 1:
        noise_mask = torch.nn.functional.max_pool2d(noise_mask, coarser)
    return noise_mask.unsqueeze(2) if samples.ndim == 5 and len(noise_mask) > 1 else noise_mask


def _ready(vae: Any) -> Any:
    """The autoencoder, where its weights are now; refused before anything is moved for it."""
    vae.throw_exception_if_invalid()
    net = vae.first_stage_model
    if getattr(vae, "latent_dim", 2) != 2 and not is_of_frames(net):
        raise InputError(refusal(net, f"its latents have {vae.latent_dim} axes and not 2"))
    return as_diffusers(net)


def _pictures(vae: Any, kl: Any, samples: torch.Tensor) -> torch.Tensor:
    """Latents ``(B, C, h, w)``. Raises InputError for a film, and for those of another autoencoder."""
    channels = _channels(kl)
    frames = is_of_frames(vae.first_stage_model)
    if frames and samples.ndim == 5 and samples.shape[2] > 1:
        raise InputError(
            f"The latents hold {samples.shape[2]} frames, and DiT360 VAE Decode makes single pictures; cut them into a "
            "batch, or decode with ComfyUI's VAE Decode."
        )
    if frames and samples.ndim == 5:
        samples = samples[:, :, 0]
    if samples.ndim != 4 or samples.shape[1] != channels:
        side = PIXELS * _patch(kl)
        raise InputError(
            f"The latents have the shape {tuple(samples.shape)}, but this VAE decodes pictures of (batch, {channels}, "
            f"{'1, ' if frames else ''}height/{side}, width/{side}); connect the VAE that belongs to the model."
        )
    return samples


def _as_stored(vae: Any, samples: torch.Tensor) -> torch.Tensor:
    """Of single pictures, with the axis of frames if the VAE has one."""
    return samples.unsqueeze(2) if is_of_frames(vae.first_stage_model) else samples


def _channels(kl: Any) -> int:
    """Of the latents as ComfyUI stores them."""
    plain = kl.config.z_dim if "z_dim" in kl.config else kl.config.latent_channels
    return int(plain) * _patch(kl) ** 2


def _patch(kl: Any) -> int:
    """Columns of the autoencoder's latents to one of ComfyUI's: FLUX.2's are kept in patches of 2×2."""
    return int(kl.config.patch_size[0]) if "patch_size" in kl.config else 1


def _unpacked(kl: Any, samples: torch.Tensor) -> torch.Tensor:
    """ComfyUI's latents as the decoder takes them: FLUX.2's are normalized by statistics, and in patches."""
    import torch

    if _patch(kl) == 1:
        return samples
    mean, deviation = _statistics(kl, samples)
    return torch.nn.functional.pixel_shuffle(samples * deviation + mean, _patch(kl))


def _packed(kl: Any, latents: torch.Tensor) -> torch.Tensor:
    """The reverse."""
    import torch

    if _patch(kl) == 1:
        return latents
    samples = torch.nn.functional.pixel_unshuffle(latents, _patch(kl))
    mean, deviation = _statistics(kl, samples)
    return (samples - mean) / deviation


def _statistics(kl: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, variance = (one.to(like).reshape(1, -1, 1, 1) for one in (kl.bn.running_mean, kl.bn.running_var))
    return mean, (variance + kl.bn.eps).sqrt()


def _brought(vae: Any, memory: float) -> Any:
    """The autoencoder with all its weights on the device, and ``memory`` bytes free there if ComfyUI can."""
    import torch
    from comfy import model_management

    # In full: the core reads weights itself, and would not run the hooks that bring a part when its module is called.
    model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=True)
    # Anew, since moving may have made other tensors. What a newer ComfyUI leaves elsewhere until it is used is copied.
    # And by torch's own: diffusers' warns of modules to be kept in 32 bits, of which there are none.
    return torch.nn.Module.to(as_diffusers(vae.first_stage_model), vae.device, vae.vae_dtype)


def _one_by_one(vae: Any, samples: torch.Tensor) -> Iterator[torch.Tensor]:
    """Each of a batch, on the VAE's device. The memory of one is enough, and each is a place to stop."""
    from comfy import model_management

    for i in range(samples.shape[0]):
        model_management.throw_exception_if_processing_interrupted()
        yield samples[i : i + 1].to(vae.vae_dtype).to(vae.device)


def _tiling(vae: Any, kl: Any, width: int, height: int) -> Any:
    choice, tiling = choose_tiling(
        "auto",
        TilingSettings(),
        width,
        height,
        registry=default_registry(),
        machine=machine_of(vae.device.type),
        precision=precision_of(vae.vae_dtype),
        vae=kl,
    )
    log.info("%s", choice.sentence())
    return tiling
