"""What one picture asks of the denoising, and what its options come to with the model that is loaded."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.options import SampleOptions
from dit360_core.planning.checks import padding_of, picture_size
from dit360_core.planning.guidance import Guided, guidance_of
from dit360_core.plugins.offers import Model
from dit360_core.sphere.grid import Grid

if TYPE_CHECKING:
    import torch

    from dit360_core.models.architecture import Facts
    from dit360_core.pipeline.holding import Hold
    from dit360_core.pipeline.stages import Conditioning, Latents, Progress, Shown, Tap


@attrs.frozen(kw_only=True, eq=False)
class Request:
    """One picture.

    conditioning: its prompts.
    options: as they were given.
    noise: to start from, ``(1, C, H/8, W/8)``; None: the seed's.
    image: to begin with; None: nothing.
    shown: what a model that fills is shown; None for the others.
    hold: what is kept of a picture; None: nothing.
    reference: a picture that a model which refers is shown; None: none.
    progress, tap: called after each step.
    """

    conditioning: Conditioning
    options: SampleOptions
    noise: torch.Tensor | None = None
    image: Latents | None = None
    shown: Shown | None = None
    hold: Hold | None = None
    reference: Latents | None = None
    progress: Progress | None = None
    tap: Tap | None = None


@attrs.frozen(kw_only=True)
class Resolved:
    """The options of a picture, with the model's own where none were given.

    width, height: pixels.
    padding: token columns on either side.
    steps: of the solver; 0 where nothing is made anew.
    whole: the steps that it has where something is.
    guidance: what it comes to with the model.
    seed: drawn, where none was given.
    """

    width: int
    height: int
    padding: int
    circular_mode: str
    rotating: bool
    interpolating: bool
    steps: int
    whole: int
    guidance: Guided
    seed: int
    grid: Grid

    @classmethod
    def of(cls, asked: SampleOptions, model: Model, facts: Facts) -> Resolved:
        """The options of a picture.

        model: gives the defaults.
        facts: of the model.
        """
        width, height = picture_size(asked, model)
        padding = padding_of(asked, model)
        whole = asked.steps or model.steps
        interpolating = _own(asked.position_interpolation, model.position_interpolation)
        return cls(
            width=width,
            height=height,
            padding=padding,
            circular_mode=asked.circular_mode,
            rotating=_own(asked.latent_rotation, model.latent_rotation),
            interpolating=interpolating,
            steps=whole if asked.denoise else 0,
            whole=whole,
            guidance=guidance_of(asked, model, facts),
            seed=secrets.randbits(32) if asked.seed is None else asked.seed,
            grid=Grid.of_picture(width, height, padding, model.width / width if interpolating else 1.0),
        )

    @property
    def biased(self) -> bool:
        """Whether the panorama wraps by weights on the keys instead of copies of columns."""
        return self.circular_mode == "bias"

    @property
    def seen(self) -> Grid:
        """The columns that the denoiser sees."""
        return self.grid.real if self.biased else self.grid

    def as_dict(self) -> Mapping[str, Any]:
        """For metadata."""
        return {
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "guidance": self.guidance.number,
            "true_guidance": self.guidance.beside,
            "circular_padding": self.padding,
            "circular_mode": self.circular_mode,
            "latent_rotation": self.rotating,
            "position_interpolation": self.interpolating,
        }


def _own(given: bool | None, of_the_model: bool) -> bool:
    return of_the_model if given is None else given
