"""diffusers' AutoencoderKLQwenImage, which is made for films, as an autoencoder of single pictures.

Nothing here imports diffusers: classes are made of the one that an autoencoder has, or that a family's code gives.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dit360_core.errors import ModelError
from dit360_core.sphere.vae.causal import TIME, is_causal, is_causal_convolution


class OneFrame:
    """What AutoencoderKLQwenImage gets in front (:func:`one_frame_class`).

    Pictures and latents may be ``(B, C, h, w)`` as well as ``(B, C, 1, h, w)``, and come back alike. Each convolution
    is a 2-D one with the last temporal slice of its kernel, and nothing is kept between calls, so threads may share it.
    Several frames are run as diffusers runs them; where the kernels are flattened they are a ModelError.
    """

    made_of: type

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """As diffusers' own.

        z: latents.
        """
        if _frames(z) > 1:
            return _film(self).decode(z, return_dict=return_dict)
        made = super().decode(_as_film(z), return_dict=True)  # type: ignore[misc]
        made.sample = _as(z, made.sample)
        return made if return_dict else (made.sample,)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """As diffusers' own.

        x: pixels.
        """
        if _frames(x) > 1:
            return _film(self).encode(x, return_dict=return_dict)
        found = super().encode(_as_film(x), return_dict=True)  # type: ignore[misc]
        posterior = type(found.latent_dist)
        found.latent_dist = posterior(_as(x, found.latent_dist.parameters))
        return found if return_dict else (found.latent_dist,)

    def tiled_decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """As diffusers' own, but cut off at −1 and 1 like what is decoded in one piece.

        z: latents.
        """
        made = super().tiled_decode(_as_film(z), return_dict=True)  # type: ignore[misc]
        made.sample = _as(z, made.sample).clamp(-1.0, 1.0)
        return made if return_dict else (made.sample,)

    def tiled_encode(self, x: torch.Tensor) -> torch.Tensor:
        """As diffusers' own.

        x: pixels.
        """
        return _as(x, super().tiled_encode(_as_film(x)))  # type: ignore[misc]

    def clear_cache(self) -> None:
        """diffusers keeps what each convolution was given for the next frame; here there is none."""
        self._feat_map = self._enc_feat_map = None


class OneFrameConvolution:
    """What QwenImageCausalConv3d gets in front: one frame meets the last temporal slice of the kernel alone."""

    _padding: Sequence[int]
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: Sequence[int]

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        if x.shape[2] > 1 or cache_x is not None:
            return super().forward(x, cache_x)  # type: ignore[misc, no-any-return]
        return self.frame(x[:, :, 0]).unsqueeze(2)

    def frame(self, x: torch.Tensor) -> torch.Tensor:
        """A picture ``(B, C, h, w)``."""
        return F.conv2d(x, self.weight[:, :, -1], self.bias, self.stride[1:], (self._padding[2], self._padding[0]))


@functools.cache
def one_frame_class(made_of: Any, *, flat: bool = True) -> Any:
    """AutoencoderKLQwenImage for single pictures: a class of the same name, so that diffusers saves it as its own.

    made_of: AutoencoderKLQwenImage.
    flat: what the new class constructs, by itself or ``from_config``, has flattened convolutions (:func:`flatten`); on
    the meta device that costs nothing.
    """

    @functools.wraps(made_of.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made_of.__init__(self, *args, **kwargs)
        _convolve_frames(self)
        if flat:
            flatten(self)

    return _in_front(OneFrame, made_of, __init__=init, made_of=made_of)


def one_frame(vae: Any, *, layers: bool = True) -> Any:
    """An AutoencoderKLQwenImage that is loaded becomes one for single pictures, and is given back; weights stay.

    layers: its convolutions, too; without, these are left as they are and compute all of their kernels.

    Any other autoencoder is given back as it is.
    """
    if is_causal(vae) and not isinstance(vae, OneFrame):
        kind: Any = type(vae)
        # Another one of its kind has all of its weights, too, as whoever plans for it must know.
        vae.__class__ = one_frame_class(kind, flat=False)
        if layers:
            _convolve_frames(vae)
    return vae


def flatten(vae: nn.Module) -> None:
    """Of each kernel the last temporal slice is kept, and what mixes frames goes: about a third of the weights is left.

    One frame is computed as before, by diffusers' own code too.
    """
    for module in list(vae.modules()):
        if TIME in module._modules:
            resize: Any = module
            del resize._modules[TIME]
            # It asks its mode what to do with further frames.
            resize.mode = resize.mode.replace("3d", "2d")
    for module in vae.modules():
        if is_causal_convolution(module):
            conv: Any = module
            conv.weight = nn.Parameter(stored(conv.weight.detach()).clone(), requires_grad=conv.weight.requires_grad)
            conv.kernel_size = (1, *conv.kernel_size[1:])
            conv._padding = (*conv._padding[:4], 0, 0)


def is_flat(vae: nn.Module) -> bool:
    """Whether an AutoencoderKLQwenImage has flattened convolutions."""
    return all(module.kernel_size[0] == 1 for module in vae.modules() if is_causal_convolution(module))  # type: ignore[index]


def is_stored(name: str) -> bool:
    """Whether a tensor of an AutoencoderKLQwenImage's file is used for single pictures.

    name: in the file, such as ``decoder.up_blocks.0.upsamplers.0.time_conv.weight``, which is not.
    """
    return TIME not in name.split(".")


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """What a flattened autoencoder has of a tensor of the file: of a kernel ``(O, I, t, k, k)`` the last temporal slice
    ``(O, I, 1, k, k)``, of anything else all. A view."""
    return tensor[:, :, -1:] if tensor.ndim == 5 else tensor


def stored_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of what :func:`stored` gives."""
    return (*shape[:2], 1, *shape[3:]) if len(shape) == 5 else tuple(shape)


def _convolve_frames(vae: nn.Module) -> None:
    for module in vae.modules():
        if is_causal_convolution(module) and not isinstance(module, OneFrameConvolution):
            kind: Any = type(module)
            module.__class__ = _frame_convolution(kind)


@functools.cache
def _frame_convolution(made_of: Any) -> Any:
    return _in_front(OneFrameConvolution, made_of)


def _in_front(front: type, behind: type, **more: Any) -> Any:
    """A class of the same name and module with other methods in front."""
    return type(behind.__name__, (front, behind), {"__module__": behind.__module__, "__doc__": front.__doc__, **more})


def _film(vae: Any) -> Any:
    """The autoencoder as diffusers has it, for several frames; what it keeps on the way is its own."""
    if is_flat(vae):
        raise ModelError("This autoencoder was read for single pictures; several frames at once cannot be given to it.")
    film = copy.copy(vae)
    film.__class__ = vae.made_of
    return film


def _frames(sample: torch.Tensor) -> int:
    return sample.shape[2] if sample.ndim == 5 else 1


def _as_film(sample: torch.Tensor) -> torch.Tensor:
    return sample.unsqueeze(2) if sample.ndim == 4 else sample


def _as(given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """As many dimensions as what was given."""
    return made.squeeze(2) if given.ndim == 4 else made
