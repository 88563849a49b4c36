"""FLUX.2 as far as it can be told without PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from dit360_core.models.family import (
    AUTOENCODER,
    DENOISER,
    Architecture,
    Facts,
    FromShapes,
    Guidance,
    ModelFolder,
    Networks,
    Original,
    Target,
    explain_broken_import,
    flux_autoencoder_name,
    index_of,
)

from dit360_model_flux2.folder import FOLDERS, usual
from dit360_model_flux2.from_shapes import from_shapes
from dit360_model_flux2.original_names import ORIGINAL_NAMES
from dit360_model_flux2.parts import DEV, KLEIN, LONGEST_PROMPT, PARTS, TITLE

if TYPE_CHECKING:
    from dit360_core.plugins import Model

REFERENCE_PROMPT = (
    "Fill the green spaces according to the image. Outpaint it as a seamless 360 degree equirectangular panorama with "
    "a level horizon. "
)
"""Of the kind that outpainting LoRAs for klein were trained with."""
DISTILLED_STEPS = 4
BASE_STEPS, BASE_GUIDANCE = 50, 4.0
"""Those of diffusers' pipelines."""


class Flux2(Architecture):
    """FLUX.2 [klein] 4B and 9B, base and distilled, and FLUX.2 [dev]."""

    name = "flux2"
    title = TITLE
    parts = PARTS
    others = ("tokenizer", "scheduler")
    replaceable: ClassVar[Mapping[str, str]] = {each: each for each in ("transformer", "vae", "text_encoder")}
    longest_prompt = LONGEST_PROMPT
    text_keys = ("joint_attention_dim",)
    # Of rank 32 in klein 4B: five double blocks of 14 and twenty single ones of 2 layers, of 3072 channels and more.
    usual_lora_bytes = 160 * 2**20
    lora_layers = "FLUX.2"

    # ------------------------------------------------------------------------------------------------------- files

    def check_folder(self, folder: Path, *, without: Collection[str] = ()) -> None:
        folder_kind(folder).check(folder, without=without)

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        folder_kind(folder.parent).check_part(part, folder, weights=weights)

    def check_configs(self, folder: Path) -> None:
        folder_kind(folder).check_configs(folder)

    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        return folder_kind(folder.parent).read_config(part, folder)

    def facts_of(self, config: Mapping[str, Any], index: Mapping[str, Any]) -> Facts:
        """A klein model that is not distilled is led by a second evaluation, against an empty prompt."""
        if usual(config, "guidance_embeds"):
            guidance = Guidance.EMBEDDED
        else:
            guidance = Guidance.NONE if index.get("is_distilled") is True else Guidance.TRUE
        return Facts(
            heads=int(usual(config, "num_attention_heads")),
            head_dim=int(usual(config, "attention_head_dim")),
            latent_channels=int(usual(config, "in_channels")) // 4,
            guidance=guidance,
            reference_prompt=REFERENCE_PROMPT,
        )

    def prompt_tokens(self, folder: Path) -> int:
        return LONGEST_PROMPT  # whatever the tokenizer says: a prompt is padded to so many

    def from_shapes(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
        return from_shapes(shapes, name)

    @property
    def usual_pipeline(self) -> str:
        return KLEIN

    def usual(self, model: Model, facts: Facts) -> Model:
        if facts.guidance is Guidance.NONE:
            return attrs.evolve(model, steps=DISTILLED_STEPS)
        return attrs.evolve(model, steps=BASE_STEPS, guidance=BASE_GUIDANCE)

    def other_names(self, part: str, name: str) -> tuple[str, ...]:
        """Black Forest Labs' of the autoencoder, who have the convolutions around latents within its halves."""
        if part != AUTOENCODER:
            return ()
        if name.startswith(("quant_conv.", "post_quant_conv.")):
            return (f"{'decoder' if name.startswith('post') else 'encoder'}.{name}",)
        return (flux_autoencoder_name(name),)

    def originals(self, part: str, names: Collection[str]) -> tuple[Original, ...] | None:
        """Black Forest Labs' of the transformer."""
        return ORIGINAL_NAMES.originals(names) if part == DENOISER else None

    # -------------------------------------------------------------------------------------------------------- LoRAs

    def target(self, name: str) -> Target | None:
        from dit360_model_flux2 import lora_names  # tables that only a LoRA's file needs

        return lora_names.find(name)

    # ------------------------------------------------------------------------------------------------------ networks

    @functools.cached_property
    def networks(self) -> Networks:
        with explain_broken_import():
            from dit360_model_flux2.networks import Flux2Networks  # imports PyTorch and diffusers

        return Flux2Networks(self)


def folder_kind(folder: Path) -> ModelFolder:
    """How a model's folder is to be, by the pipeline that it names; as klein's if it names none."""
    return FOLDERS[DEV if pipeline_of(folder) == DEV else KLEIN]


def pipeline_of(folder: Path) -> str:
    """The pipeline that a model's folder names; klein's if it names none."""
    return str(index_of(folder).get("_class_name", KLEIN))


FLUX2 = Flux2()
"""It holds nothing, so that one does."""
