"""ComfyUI's autoencoder, run by the core: circular in longitude, and exact at whatever memory there is.

ComfyUI's own decode pads with zeros at the meridian, and falls back to tiles that never wrap. Here the autoencoder's
weights are given to the core as an AutoencoderKL of diffusers, which is the same network by other names. Tensors are
shared and nothing is changed, so other nodes that use the VAE, at the same time even, see nothing of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError, first_line
from dit360_core.planning.tiling import choose_tiling
from dit360_core.plugins.offers import TilingSettings
from dit360_core.plugins.registry import default_registry
from dit360_core.system.dtypes import precision_of

from dit360_comfy.native_attention import machine_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

PIXELS = 8
"""Pixels to a latent column, of every autoencoder that can be taken here."""


def as_diffusers(net: Any) -> Any:
    """ComfyUI's autoencoder ``net`` as an AutoencoderKL that shares its weights, wherever they are.

    Raises InputError for a network that is none, or one with something more.
    """
    from dit360_core.models.weights.quiet import quiet

    coarsest_to_finest = _levels(net)
    with quiet():
        import torch
        from diffusers import AutoencoderKL

        with torch.device("meta"):
            kl: Any = AutoencoderKL(**_config(net, coarsest_to_finest))  # type: ignore[no-untyped-call]
    try:
        kl.load_state_dict(_renamed(net.state_dict(), kl, len(coarsest_to_finest)), strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(_refusal(net, first_line(error))) from error
    return kl.eval().requires_grad_(False)


def _refusal(net: Any, why: str) -> str:
    return (
        f"This VAE, a {type(net).__name__}, cannot be made seamless, because it is not built like FLUX's ({why}); "
        "decode with ComfyUI's VAE Decode, or connect FLUX's VAE."
    )


def _levels(net: Any) -> list[int]:
    """Channels of the levels of a decoder, the coarsest first."""
    decoder: Any = getattr(net, "decoder", None)
    if type(decoder).__name__ != "Decoder" or not hasattr(decoder, "conv_in") or not hasattr(decoder, "up"):
        raise InputError(_refusal(net, "it has no such decoder"))
    if getattr(decoder, "tanh_out", False) or getattr(decoder, "give_pre_end", False) or getattr(net, "bn", None):
        raise InputError(_refusal(net, "it does more than decode"))
    weight = getattr(decoder.conv_in, "weight", None)
    if weight is None or weight.ndim != 4:
        raise InputError(_refusal(net, "it is made for films"))
    if len(decoder.up) != 4:
        raise InputError(_refusal(net, f"it has {len(decoder.up)} levels and not 4"))
    return [int(level.block[0].out_channels) for level in reversed(decoder.up)]


def _config(net: Any, channels: list[int]) -> dict[str, Any]:
    decoder = net.decoder
    return {
        "block_out_channels": tuple(reversed(channels)),
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "layers_per_block": int(decoder.num_res_blocks),
        "latent_channels": int(decoder.conv_in.weight.shape[1]),
        "in_channels": int(decoder.conv_out.weight.shape[0]),
        "out_channels": int(decoder.conv_out.weight.shape[0]),
        "norm_num_groups": int(decoder.norm_out.num_groups),
        "use_quant_conv": hasattr(net, "quant_conv"),
        "use_post_quant_conv": hasattr(net, "post_quant_conv"),
    }


def _renamed(state: Mapping[str, torch.Tensor], kl: Any, levels: int) -> dict[str, torch.Tensor]:
    """ComfyUI's tensors, which have Black Forest Labs' names, with those of an AutoencoderKL of so many levels.

    What is none of its tensors keeps its name. Its attention has Linear layers where ComfyUI's has 1×1 convolutions.
    """
    from dit360_core.models.flux.composed import original_name

    wanted = {original_name(name, levels): (name, tensor.ndim) for name, tensor in kl.state_dict().items()}
    renamed = {}
    for name, tensor in state.items():
        new, ndim = wanted.get(name, (name, tensor.ndim))
        renamed[new] = tensor.flatten(1) if ndim == 2 < tensor.ndim else tensor
    return renamed


def decode_seamless(vae: Any, samples: torch.Tensor) -> torch.Tensor:
    """Latents ``(B, C, h, w)`` as the VAE stores them → IMAGE ``(B, 8h, 8w, 3)`` in 0 … 1, on ComfyUI's device for it.

    vae: ComfyUI's. Rolling the latents by one column rolls the picture by eight pixels.

    Raises InputError.
    """
    import torch

    kl = _ready(vae)
    _check_latents(samples, int(kl.config.latent_channels))
    height, width = (PIXELS * n for n in samples.shape[2:])
    kl = _brought(vae, vae.memory_used_decode(samples[:1].shape, vae.vae_dtype))
    tiling = _tiling(vae, kl, width, height)
    pictures = [
        vae.process_output(tiling.decode(kl, one).to(vae.output_device).float()) for one in _one_by_one(vae, samples)
    ]
    return torch.cat(pictures).movedim(1, -1)


def encode_seamless(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """IMAGE ``(B, H, W, 3)`` in 0 … 1 → latents ``(B, C, H/8, W/8)`` as the VAE stores them. Raises InputError."""
    import torch

    kl = _ready(vae)
    if pixels.ndim != 4 or pixels.shape[1] % PIXELS or pixels.shape[2] % PIXELS:
        raise InputError(
            f"A picture of the shape {tuple(pixels.shape)} cannot be encoded without cutting its edges off: height and "
            f"width must be multiples of {PIXELS} pixels; resize it."
        )
    kl = _brought(vae, vae.memory_used_encode((1, 3, *pixels.shape[1:3]), vae.vae_dtype))
    tiling = _tiling(vae, kl, pixels.shape[2], pixels.shape[1])
    latents = [
        tiling.encode(kl, vae.process_input(one)).to(vae.output_device).float()
        for one in _one_by_one(vae, pixels[..., :3].movedim(-1, 1))
    ]
    return torch.cat(latents)


def _ready(vae: Any) -> Any:
    """The autoencoder, where its weights are now; refused before anything is moved for it."""
    vae.throw_exception_if_invalid()
    if getattr(vae, "latent_dim", 2) != 2:
        raise InputError(_refusal(vae.first_stage_model, f"its latents have {vae.latent_dim} axes and not 2"))
    return as_diffusers(vae.first_stage_model)


def _brought(vae: Any, memory: float) -> Any:
    """The autoencoder with all its weights on the device, and ``memory`` bytes free there if ComfyUI can."""
    from comfy import model_management

    # In full: the core reads weights itself, and would not run the hooks that bring a part when its module is called.
    model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=True)
    # Anew, since moving may have made other tensors. What a newer ComfyUI leaves elsewhere until it is used is copied.
    return as_diffusers(vae.first_stage_model).to(vae.device, vae.vae_dtype)


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


def _check_latents(samples: torch.Tensor, channels: int) -> None:
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise InputError(
            f"The latents have the shape {tuple(samples.shape)}, but this VAE decodes pictures of (batch, {channels}, "
            "height/8, width/8); connect the VAE that belongs to the model."
        )
