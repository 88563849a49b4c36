"""FLUX.1 as far as it can be told without PyTorch: its parts, and which module knows what of them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from dit360_core.models.architecture import (
    AUTOENCODER,
    DENOISER,
    Architecture,
    Facts,
    FromShapes,
    Given,
    Guidance,
    Networks,
    Target,
)
from dit360_core.models.flux import original_names
from dit360_core.models.flux.autoencoder_names import LEVELS, original_name
from dit360_core.models.flux.channels import fills, latents, noise_of_a_fill
from dit360_core.models.flux.from_shapes import from_shapes
from dit360_core.models.flux.lengths import LONGEST_PROMPT
from dit360_core.models.flux.parts import PARTS, PIPELINES, REPLACEABLE, T5, TOKENIZERS, USUAL
from dit360_core.models.libraries import explain_broken_import
from dit360_core.models.original_names import Original, as_they_are
from dit360_core.plugins.offers import Model

SCHNELL_STEPS = 4
FILL_STEPS, FILL_GUIDANCE = 50, 30.0
"""Those of diffusers' FluxFillPipeline."""
FILL_GUIDANCE_RANGE = (1.0, 100.0)
"""Nobody has said where its pictures break."""


class Flux(Architecture):
    """FLUX.1-dev, -schnell, Krea-dev, Kontext, Fill, and what is made of them."""

    name = "flux"
    title = "FLUX.1"
    pipelines: ClassVar[tuple[str, ...]] = PIPELINES
    """Of its folders, the usual one first: another family of the same parts has others."""
    parts = PARTS
    others = (*TOKENIZERS, "scheduler")
    replaceable = REPLACEABLE
    longest_prompt = LONGEST_PROMPT
    text_keys = ("joint_attention_dim", "pooled_projection_dim")
    # DiT360's, of rank 64: in 57 blocks four layers of 3072 channels, two factors each, in 16 bits.
    usual_lora_bytes = 57 * 4 * 2 * 64 * 3072 * 2
    lora_layers = "FLUX, CLIP or T5"

    # ------------------------------------------------------------------------------------------------------- files

    def check_folder(self, folder: Path, *, without: Collection[str] = ()) -> None:
        attrs.evolve(self._files.FLUX_FOLDER, pipelines=self.pipelines).check(folder, without=without)

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        self._files.FLUX_FOLDER.check_part(part, folder, weights=weights)

    def check_configs(self, folder: Path) -> None:
        self._files.FLUX_FOLDER.check_configs(folder)

    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        return self._files.read_config(part, folder)  # type: ignore[no-any-return]

    def facts_of(self, config: Mapping[str, Any], index: Mapping[str, Any]) -> Facts:
        heads, head_dim, guided = (config.get(key, usual) for key, usual in USUAL.items())
        return Facts(
            heads=int(heads),
            head_dim=int(head_dim),
            latent_channels=latents(config),
            guidance=Guidance.EMBEDDED if guided else Guidance.NONE,
            fills=fills(config),
        )

    def prompt_tokens(self, folder: Path) -> int:
        return self._files.prompt_tokens(folder, LONGEST_PROMPT)  # type: ignore[no-any-return]

    def from_shapes(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
        return from_shapes(shapes)

    @property
    def usual_pipeline(self) -> str:
        return self.pipelines[0]

    def usual(self, model: Model, facts: Facts) -> Model:
        """One without guidance is FLUX.1-schnell, or made of it, and takes four steps; one that fills, FLUX.1-Fill."""
        if not facts.takes_guidance:
            return attrs.evolve(model, steps=SCHNELL_STEPS)
        if facts.fills:
            return attrs.evolve(model, steps=FILL_STEPS, guidance=FILL_GUIDANCE, guidance_range=FILL_GUIDANCE_RANGE)
        return model

    @property
    def _files(self) -> Any:
        from dit360_core.models.flux import files  # looks at files, which 'dit360 backends' does not

        return files

    # ----------------------------------------------------------------------------------------------- replaced parts

    def check_replaced(self, replaced: Sequence[Given], folder: Path) -> None:
        self._files.check_fits(replaced, folder)

    def notes_on_replaced(self, replaced: Sequence[Given], folder: Path) -> Iterable[str]:
        return self._files.notes(replaced, folder)  # type: ignore[no-any-return]

    def other_names(self, part: str, name: str) -> tuple[str, ...]:
        """Black Forest Labs' of the autoencoder; those of the transformer's layers are :meth:`target`'s."""
        if part != AUTOENCODER:
            return ()
        return (original_name(name, LEVELS),)

    # -------------------------------------------------------------------------------------------------------- LoRAs

    def target(self, name: str) -> Target | None:
        from dit360_core.models.flux import lora_names  # tables that only a LoRA's file needs

        return lora_names.find(name)

    def originals(self, part: str, names: Collection[str]) -> tuple[Original, ...] | None:
        """Black Forest Labs' of the transformer; T5 is whole here, and called alike everywhere."""
        if part == DENOISER:
            return original_names.ORIGINAL_NAMES.originals(names)
        return as_they_are(names) if part == T5 else None

    def first_inputs(self, part: str, layer: str, inputs: int) -> int | None:
        """The noise comes first of what a model that fills takes, and is all that others take."""
        return noise_of_a_fill(inputs) if (part, layer) == (DENOISER, "x_embedder") else None

    # ------------------------------------------------------------------------------------------------------ networks

    @functools.cached_property
    def networks(self) -> Networks:
        with explain_broken_import():
            from dit360_core.models.flux.networks import FluxNetworks  # imports PyTorch and diffusers

        return FluxNetworks(self)


FLUX = Flux()
"""It holds nothing, so that one does."""
