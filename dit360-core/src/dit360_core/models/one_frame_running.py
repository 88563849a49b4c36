"""An autoencoder that is made for films, at work on one frame. See :mod:`dit360_core.models.one_frame`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from dit360_core.models.architecture import AUTOENCODER
from dit360_core.models.diffusers_networks import DiffusersNetworks
from dit360_core.models.engine import Engine
from dit360_core.models.one_frame import ORIGINAL
from dit360_core.models.preview import fitted
from dit360_core.models.weights.quiet import quiet
from dit360_core.sphere.vae import one_frame_class, stored, stored_shape


class OneFrameNetworks(DiffusersNetworks):
    """The networks of a family with such an autoencoder, which is built and read without what a picture never meets."""

    autoencoder_class: ClassVar[Any]
    """Of diffusers."""

    def made_autoencoder(self, config: Mapping[str, Any]) -> Any:
        """The autoencoder of its configuration."""
        return one_frame_class(self.autoencoder_class).from_config(config)

    def names_read(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Of Wan 2.1's autoencoder, which this is, in its makers' files: diffusers moves numbers of names about."""
        if part != AUTOENCODER or ORIGINAL not in names:
            return {}
        with quiet():
            from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        convert: Any = convert_wan_vae_to_diffusers
        return {name: here for here, name in convert({name: name for name in names}).items()}

    def shape_read(self, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return stored_shape(shape) if part == AUTOENCODER else shape

    def as_read(self, part: str, tensor: torch.Tensor) -> torch.Tensor:
        return stored(tensor) if part == AUTOENCODER else tensor


@attrs.frozen(kw_only=True, eq=False)
class OneFrameEngine(Engine):
    """The engine of a family with such an autoencoder."""

    def to_stored(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's statistics are put back, in the steps in which diffusers' pipelines round."""
        mean, inverse = self._statistics(latents)
        return latents / inverse + mean

    def from_stored(self, latents: torch.Tensor) -> torch.Tensor:
        mean, inverse = self._statistics(latents)
        return (latents - mean) * inverse

    def to_exchanged(self, latents: torch.Tensor) -> torch.Tensor:
        """With the axis of frames that ComfyUI keeps."""
        return self.to_stored(latents).unsqueeze(2)

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and inverse deviation of each channel, ``(1, C, 1, 1)``."""
        config = self.autoencoder.config
        mean, deviation = (
            torch.tensor(list(numbers)).view(1, -1, 1, 1).to(latents.device, latents.dtype)
            for numbers in (config.latents_mean, config.latents_std)
        )
        return mean, 1.0 / deviation

    def latent_to_rgb(self) -> torch.Tensor:
        return fitted(self.autoencoder, self.to_stored, self.device)
