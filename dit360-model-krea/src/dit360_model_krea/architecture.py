"""Krea 2 as far as it can be told without PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from dit360_core.models.family import (
    DENOISER,
    Architecture,
    Facts,
    FromShapes,
    Guidance,
    Networks,
    Original,
    Target,
    explain_broken_import,
    longest_prompt,
)

from dit360_model_krea.folder import FOLDER, TOKENIZER, layers_read, usual
from dit360_model_krea.from_shapes import from_shapes
from dit360_model_krea.parts import LONGEST_PROMPT, PARTS, PIPELINE, TEXT, TITLE

if TYPE_CHECKING:
    from dit360_core.plugins import Model

TURBO_STEPS = 8
BASE_STEPS, BASE_GUIDANCE = 52, 3.5
"""Those that Krea names for its models."""
GUIDANCE_RANGE = (0.0, 10.0)
READ = "layers_read"
"""In the text encoder's configuration, beside what its file says: how many layers have run where it is read."""


class Krea2(Architecture):
    """Krea 2, base and Turbo."""

    name = "krea"
    title = TITLE
    parts = PARTS
    others = ("tokenizer", "scheduler")
    replaceable: ClassVar[Mapping[str, str]] = {each: each for each in ("transformer", "vae", "text_encoder")}
    longest_prompt = LONGEST_PROMPT
    text_keys = ("text_hidden_dim", "num_text_layers")
    # Of rank 32: twenty-eight blocks of eight layers, of 6144 channels and more.
    usual_lora_bytes = 205 * 2**20
    lora_layers = TITLE

    # ------------------------------------------------------------------------------------------------------- files

    def check_folder(self, folder: Path, *, without: Collection[str] = ()) -> None:
        FOLDER.check(folder, without=without)

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        FOLDER.check_part(part, folder, weights=weights)

    def check_configs(self, folder: Path) -> None:
        FOLDER.check_configs(folder)

    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        """The text encoder's tells which of its layers are read, which stands beside the folder."""
        config = FOLDER.read_config(part, folder)
        if part == TEXT:
            config[READ] = layers_read(folder.parent, config["num_hidden_layers"])
        return config

    def facts_of(self, config: Mapping[str, Any], index: Mapping[str, Any]) -> Facts:
        """A base model is led by a second evaluation, against an empty prompt. Krea counts guidance from 0."""
        return Facts(
            heads=int(usual(config, "num_attention_heads")),
            head_dim=int(usual(config, "attention_head_dim")),
            latent_channels=int(usual(config, "in_channels")) // 4,
            guidance=Guidance.NONE if index.get("is_distilled") is True else Guidance.TRUE,
            off=0.0,
        )

    def prompt_tokens(self, folder: Path) -> int:
        return longest_prompt(TOKENIZER, folder / "tokenizer", LONGEST_PROMPT)

    def from_shapes(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
        return from_shapes(shapes, name)

    @property
    def usual_pipeline(self) -> str:
        return PIPELINE

    def usual(self, model: Model, facts: Facts) -> Model:
        if facts.guidance is Guidance.NONE:
            return attrs.evolve(model, steps=TURBO_STEPS, guidance=0.0, guidance_range=GUIDANCE_RANGE)
        return attrs.evolve(model, steps=BASE_STEPS, guidance=BASE_GUIDANCE, guidance_range=GUIDANCE_RANGE)

    def other_names(self, part: str, name: str) -> tuple[str, ...]:
        """Krea's own, which some folders have in diffusers' place."""
        from dit360_model_krea.original_names import original_name  # a table that only other folders need

        theirs = original_name(name) if part == DENOISER else None
        return () if theirs is None else (theirs,)

    def originals(self, part: str, names: Collection[str]) -> tuple[Original, ...] | None:
        """Krea's own, who has the vectors of a modulation one after the other."""
        from dit360_model_krea.original_names import original_name  # as above

        if part != DENOISER:
            return None
        theirs = {name: original_name(name) for name in names}
        return tuple(
            Original(name=there, tensors=(name,), flat=name.endswith("scale_shift_table"))
            for name, there in theirs.items()
            if there is not None
        )

    # -------------------------------------------------------------------------------------------------------- LoRAs

    def target(self, name: str) -> Target | None:
        from dit360_model_krea import lora_names  # tables that only a LoRA's file needs

        return lora_names.find(name)

    # ------------------------------------------------------------------------------------------------------ networks

    @functools.cached_property
    def networks(self) -> Networks:
        with explain_broken_import():
            from dit360_model_krea.networks import Krea2Networks  # imports PyTorch and diffusers

        return Krea2Networks(self)


KREA2 = Krea2()
"""It holds nothing, so that one does."""
