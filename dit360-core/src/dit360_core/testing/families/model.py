"""A tiny model of a family, saved once, and loaded in the ways that the tests of its family need."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dit360_core.models.architecture import DENOISER, Architecture, Facts, Guidance
from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Engine
from dit360_core.models.families import architecture_of
from dit360_core.models.weights.quiet import quiet
from dit360_core.pipeline.loading import load
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.stages import Conditioning
from dit360_core.plugins import builtin
from dit360_core.plugins.builtin import architectures
from dit360_core.plugins.hookspecs import hookimpl
from dit360_core.plugins.offers import ModelFamily
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.grid import Grid
from dit360_core.testing.families.reference import Reference, painted_by_diffusers

GUIDANCE = 3.0
"""So far from the negative prompt that another formula is another picture."""


def registry_with(offer: ModelFamily) -> Registry:
    """The core's own plugins, and a family; in the place of the core's own where it is that."""

    def dit360_architectures() -> list[ModelFamily]:
        return [offer]

    mine = ModuleType("tried")
    vars(mine)["dit360_architectures"] = hookimpl(dit360_architectures)
    (own,) = architectures.dit360_architectures()
    others = [one for one in builtin.PLUGINS if one is not architectures or not set(own.pipelines) & {*offer.pipelines}]
    return Registry(builtin=[*others, mine], entry_points=[])


class TinyModel:
    """What the tests of a family share, made when one of them wants it."""

    def __init__(
        self,
        offer: ModelFamily,
        make: Callable[[], Any],
        *,
        size: tuple[int, int],
        steps: int,
        seed: int,
        prompt: str,
        words: Callable[[Any, dict[str, Any]], dict[str, Any]],
    ) -> None:
        """make: gives the pipeline of diffusers.
        size, steps, seed, prompt: of the pictures.
        words: what a pipeline of diffusers is called with, of what is known of all.
        """
        self.offer, self.size, self.steps, self.seed, self.prompt = offer, size, steps, seed, prompt
        self._words = words
        self._place = tempfile.TemporaryDirectory(prefix="dit360-family-", ignore_cleanup_errors=True)
        self.place = Path(self._place.name)
        self.folder = self.place / "model"
        self.registry = registry_with(offer)
        self._loaded: dict[tuple[tuple[str, Any], ...], Pipeline] = {}
        self._read: dict[Pipeline, Conditioning] = {}
        with quiet():
            made = make()
            self._pipeline = type(made)
            made.save_pretrained(self.folder)

    def close(self) -> None:
        """Deletes its files."""
        self._place.cleanup()

    # -------------------------------------------------------------------------------------------------- as it is loaded

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The family that its folder is taken for."""
        return architecture_of(self.folder, self.registry)

    @property
    def facts(self) -> Facts:
        """What its configurations say."""
        return self.architecture.facts(self.folder)

    def load(self, folder: Path | None = None, **options: Any) -> Pipeline:
        """It as dit360 loads it, on the CPU, once for all who ask for the same.

        folder: another one.
        options: of loading; fp32 unless they say otherwise.
        """
        asked = {"precision": "fp32", "device": "cpu", **options}
        key = (("folder", folder), *sorted(asked.items()))
        if key not in self._loaded:
            self._loaded[key] = load(str(folder or self.folder), registry=self.registry, **asked)
        return self._loaded[key]

    @functools.cached_property
    def _of_diffusers(self) -> Any:
        with quiet():
            pipe = self._pipeline.from_pretrained(self.folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def of_diffusers(self, dtype: torch.dtype = torch.float32) -> Any:
        """It as diffusers loads it, a copy for each who asks."""
        with quiet():
            return copy.deepcopy(self._of_diffusers).to(dtype)

    # ---------------------------------------------------------------------------------------------------------- painted

    @functools.cached_property
    def reference(self) -> Reference:
        """What diffusers' own pipeline makes of the prompt, in float32."""
        return self.reference_in(torch.float32)

    def reference_in(self, dtype: torch.dtype) -> Reference:
        """The same in another dtype."""
        pipe = self.of_diffusers(dtype)
        return painted_by_diffusers(pipe, self._words(pipe, self.known()), self.levels)

    @property
    def levels(self) -> tuple[float, ...]:
        """Of noise, by the engine's time shift: one more than steps."""
        shift, tokens = self.load().engine.shift(self.steps), self.grid().tokens
        return *(shift(1 - i / self.steps, tokens) for i in range(self.steps)), 0.0

    def known(self) -> dict[str, Any]:
        """What any pipeline of diffusers may be asked for here, and under these names.

        guidance, and whether it is ``true``, are called otherwise in each of them.
        """
        true = self.facts.guidance is Guidance.TRUE
        width, height = self.size
        return {
            "prompt": self.prompt,
            "width": width,
            "height": height,
            "num_inference_steps": self.steps,
            "generator": torch.Generator().manual_seed(self.seed),
            "guidance": self.facts.off if self.facts.guidance is Guidance.NONE else GUIDANCE,
            "true": true,
            **({"negative_prompt": self.facts.negative_prompt} if true else {}),
            "max_sequence_length": self.load().engine.longest_prompt,
        }

    @property
    def guided(self) -> dict[str, float]:
        """Guidance as an option, where the model makes something of it."""
        return {} if self.facts.guidance is Guidance.NONE else {"guidance": GUIDANCE}

    def conditioning(self, pipeline: Pipeline) -> Conditioning:
        """The prompt, read once; with the negative prompt where guidance leads away from one."""
        if pipeline not in self._read:
            away = self.facts.negative_prompt if self.facts.guidance is Guidance.TRUE else None
            self._read[pipeline] = pipeline.encode(self.prompt, negative_prompt=away)
        return self._read[pipeline]

    def paint(self, pipeline: Pipeline, **options: Any) -> torch.Tensor:
        """Latents ``(1, C, H/8, W/8)`` of a pipeline, without pad columns unless options say otherwise."""
        width, height = self.size
        asked = {"width": width, "height": height, "steps": self.steps, "circular_padding": 0, **self.guided}
        if "latents" not in options:
            asked["seed"] = self.seed
        made = pipeline.sample(self.conditioning(pipeline), **{**asked, **options})
        return made.tensor

    # --------------------------------------------------------------------------------------------------- one evaluation

    def grid(self, padding: int = 0) -> Grid:
        """The tokens of the picture."""
        return Grid.of_picture(*self.size, padding)

    @functools.cached_property
    def embedding(self) -> Embedding:
        """The prompt in numbers."""
        engine = self.load().engine
        return engine.embed(self.prompt, engine.longest_prompt)

    def noise(self, grid: Grid | None = None, pictures: int = 1) -> torch.Tensor:
        """Tokens ``(1, r·c, channels)`` of noise; with others beside them as a model is shown pictures."""
        engine = self.load().engine
        grid = grid or self.grid()
        drawn = [engine.pack(engine.noise(grid, torch.Generator().manual_seed(i))) for i in range(pictures)]
        return torch.cat(drawn, dim=-1)

    def evaluate(
        self, engine: Engine, x: torch.Tensor, grid: Grid, *, attend: Any = None, biased: bool = False
    ) -> torch.Tensor:
        """The velocity of tokens half-way, for the prompt."""
        embedded = GUIDANCE if self.facts.guidance is Guidance.EMBEDDED else None
        velocity = engine.velocity(grid, embedded, attend, biased=biased)
        prompt = self.embedding
        given = Embedding(
            tokens=prompt.tokens.to(engine.dtype),
            pooled=None if prompt.pooled is None else prompt.pooled.to(engine.dtype),
        )
        engine.bring(DENOISER)
        with torch.no_grad():
            return velocity(x, 0.5, given)


def off(found: torch.Tensor, right: torch.Tensor) -> float:
    """How far one is from the other at most, in standard deviations of the right one."""
    return float((found.double() - right.double()).abs().max() / right.double().std())
