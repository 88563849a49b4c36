"""What one picture asks of the denoising, and what its options come to with the model that is loaded."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from dit360_core.options import SampleOptions
from dit360_core.planning.checks import padding_of, picture_size
from dit360_core.planning.guidance import Guided, guidance_of
from dit360_core.planning.windows import windows_of
from dit360_core.plugins.offers import Model
from dit360_core.sphere.grid import Grid
from dit360_core.sphere.size import PATCH
from dit360_core.sphere.windows import Windows

if TYPE_CHECKING:
    import torch

    from dit360_core.models.architecture import Facts
    from dit360_core.pipeline.holding import Hold
    from dit360_core.pipeline.journal import Journal
    from dit360_core.pipeline.stages import Conditioning, Latents, Progress, Shown, Tap


Setting = TypeVar("Setting", bool, float)


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
    journal: which keeps what was computed; None: nothing is kept.
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
    journal: Journal | None = None


@attrs.frozen(kw_only=True)
class Resolved:
    """The options of a picture, with the model's own where none were given.

    width, height: pixels.
    padding: token columns on either side.
    steps: of the solver; 0 where nothing is made anew.
    whole: the steps that it has where something is.
    guidance: what it comes to with the model.
    cube_consistency: 0 … 1.
    seed: drawn, where none was given.
    windows: in which it is seen; None: it is seen at once.
    """

    width: int
    height: int
    padding: int
    circular_mode: str
    rotating: bool
    interpolating: bool
    cube_consistency: float
    steps: int
    whole: int
    guidance: Guided
    seed: int
    grid: Grid
    windows: Windows | None

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
            cube_consistency=_own(asked.cube_consistency, model.cube_consistency),
            steps=whole if asked.denoise else 0,
            whole=whole,
            guidance=guidance_of(asked, model, facts),
            seed=secrets.randbits(32) if asked.seed is None else asked.seed,
            grid=Grid.of_picture(width, height, padding, model.width / width if interpolating else 1.0),
            windows=windows_of(asked, model),
        )

    @property
    def biased(self) -> bool:
        """Whether the panorama wraps by weights on the keys instead of copies of columns."""
        return self.circular_mode == "bias"

    @property
    def tokens(self) -> int:
        """Of the picture that the denoiser sees at once, pad columns included; mu is computed from this."""
        return self.grid.tokens if self.windows is None else self.windows.tokens(self.grid.padding)

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
            **({} if self.windows is None else {"windows": self._windows_told(self.windows)}),
        }

    @staticmethod
    def _windows_told(windows: Windows) -> dict[str, int]:
        return {"width": PATCH * windows.width, "height": PATCH * windows.height, "count": windows.count}


def _own(given: Setting | None, of_the_model: Setting) -> Setting:
    return of_the_model if given is None else given
