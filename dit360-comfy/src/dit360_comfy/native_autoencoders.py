"""ComfyUI's autoencoders as diffusers' own, which the core can take apart: the same networks by other names.

Tensors are shared and nothing is changed, so other nodes that use the VAE, at the same time even, see nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

_LEVELS = 4
"""Of resolution, which all have: a latent column is eight pixels wide."""


def as_diffusers(net: Any) -> Any:
    """ComfyUI's autoencoder ``net`` as an AutoencoderKL, AutoencoderKLFlux2 or AutoencoderKLQwenImage that shares its
    weights, wherever they are.

    Raises InputError for a network that is none, or one with something more.
    """
    from dit360_core.models.weights.quiet import quiet

    make = _of_frames if is_of_frames(net) else _of_blocks
    with quiet():
        kl, state = make(net)
    try:
        kl.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(refusal(net, first_line(error))) from error
    return kl.eval().requires_grad_(False)


def is_of_frames(net: Any) -> bool:
    """Whether it is Wan 2.1's, which Qwen-Image and Krea 2 use: its latents have an axis of frames."""
    return type(net).__name__ == "WanVAE" and hasattr(net, "conv2") and hasattr(net, "dim_mult")


def refusal(net: Any, why: str) -> str:
    """A sentence for an autoencoder that cannot be taken."""
    return (
        f"This VAE, a {type(net).__name__}, cannot be made seamless, because it is not built like those that dit360 "
        f"knows ({why}); decode with ComfyUI's VAE Decode, or connect the VAE of FLUX, Qwen-Image, Krea 2 or Stable "
        "Diffusion."
    )


def _of_blocks(net: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """An autoencoder of FLUX.1, FLUX.2 or Stable Diffusion, empty, and what it holds."""
    channels = _levels(net)
    config = _config(net, channels)
    import torch

    with torch.device("meta"):
        if getattr(net, "bn", None) is None:
            from diffusers import AutoencoderKL

            kl: Any = AutoencoderKL(**config)  # type: ignore[no-untyped-call]
        else:
            from diffusers import AutoencoderKLFlux2

            # Its small decoder is narrower than its encoder.
            narrower = config["block_out_channels"]
            config["block_out_channels"] = _widths(net.encoder)
            config |= {"decoder_block_out_channels": narrower, "batch_norm_eps": float(net.bn.eps)}
            kl = AutoencoderKLFlux2(**config)  # type: ignore[no-untyped-call]
    return kl, _renamed(net.state_dict(), kl)


def _widths(encoder: Any) -> tuple[int, ...]:
    return tuple(int(level.block[-1].out_channels) for level in encoder.down)


def _levels(net: Any) -> list[int]:
    """Channels of the levels of a decoder, the coarsest first."""
    decoder: Any = getattr(net, "decoder", None)
    if type(decoder).__name__ != "Decoder" or not hasattr(decoder, "conv_in") or not hasattr(decoder, "up"):
        raise InputError(refusal(net, "it has no such decoder"))
    if getattr(decoder, "tanh_out", False) or getattr(decoder, "give_pre_end", False):
        raise InputError(refusal(net, "it does more than decode"))
    weight = getattr(decoder.conv_in, "weight", None)
    if weight is None or weight.ndim != 4:
        raise InputError(refusal(net, "it is made for films"))
    if len(decoder.up) != _LEVELS:
        raise InputError(refusal(net, f"it has {len(decoder.up)} levels and not {_LEVELS}"))
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


def _renamed(state: Mapping[str, torch.Tensor], kl: Any) -> dict[str, torch.Tensor]:
    """ComfyUI's tensors, which have Black Forest Labs' names, with those of an AutoencoderKL.

    What is none of its tensors keeps its name. Its attention has Linear layers where ComfyUI's has 1×1 convolutions.
    """
    from dit360_core.models.flux.autoencoder_names import original_name

    wanted = {original_name(name, _LEVELS): (name, tensor.ndim) for name, tensor in kl.state_dict().items()}
    renamed = {}
    for name, tensor in state.items():
        new, ndim = wanted.get(name, (name, tensor.ndim))
        renamed[new] = tensor.flatten(1) if ndim == 2 < tensor.ndim else tensor
    return renamed


def _of_frames(net: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Wan 2.1's autoencoder for single pictures, empty, and what it holds."""
    channels = int(net.encoder.conv1.weight.shape[1]), int(net.decoder.head[2].weight.shape[0])
    if channels != (3, 3):
        raise InputError(refusal(net, f"it takes {channels[0]} channels and gives {channels[1]}, and not 3"))
    import torch
    from diffusers import AutoencoderKLQwenImage
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    from dit360_core.sphere.vae import one_frame

    with torch.device("meta"):
        kl: Any = AutoencoderKLQwenImage(  # type: ignore[no-untyped-call]
            base_dim=int(net.dim),
            z_dim=int(net.z_dim),
            dim_mult=list(net.dim_mult),
            num_res_blocks=int(net.num_res_blocks),
            attn_scales=list(net.attn_scales),
            temperal_downsample=list(net.temperal_downsample),
        )
    state: dict[str, torch.Tensor] = convert_wan_vae_to_diffusers(dict(net.state_dict()))  # type: ignore[no-untyped-call]
    return one_frame(kl), state
