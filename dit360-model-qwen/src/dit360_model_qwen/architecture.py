"""Qwen-Image as far as it can be told without PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from dit360_core.models.family import (
    Architecture,
    Facts,
    FromShapes,
    Guidance,
    Networks,
    Target,
    explain_broken_import,
    longest_prompt,
)

from dit360_model_qwen.folder import FOLDER, TOKENIZER, usual
from dit360_model_qwen.from_shapes import from_shapes
from dit360_model_qwen.parts import LONGEST_PROMPT, PARTS
from dit360_model_qwen.pipelines import PIPELINES, TITLE

if TYPE_CHECKING:
    from dit360_core.plugins import Model

STEPS, GUIDANCE = 50, 4.0
"""Those of diffusers' pipelines."""


class QwenImage(Architecture):
    """Qwen-Image and Qwen-Image-2512."""

    name = "qwen"
    title = TITLE
    parts = PARTS
    others = ("tokenizer", "scheduler")
    replaceable: ClassVar[Mapping[str, str]] = {each: each for each in ("transformer", "vae", "text_encoder")}
    longest_prompt = LONGEST_PROMPT
    text_keys = ("joint_attention_dim",)
    # Of rank 128, in bf16: sixty blocks of eight layers from 3072 channels to as many and four to, or from, 12288.
    usual_lora_bytes = 2 * 60 * 128 * (8 * (3072 + 3072) + 4 * (3072 + 12288))
    lora_layers = TITLE

    # ------------------------------------------------------------------------------------------------------- files

    def check_folder(self, folder: Path, *, without: Collection[str] = ()) -> None:
        FOLDER.check(folder, without=without)

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        FOLDER.check_part(part, folder, weights=weights)

    def check_configs(self, folder: Path) -> None:
        FOLDER.check_configs(folder)

    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        return FOLDER.read_config(part, folder)

    def facts_of(self, config: Mapping[str, Any], index: Mapping[str, Any]) -> Facts:
        """It is led by a second evaluation, away from a prompt that says nothing."""
        return Facts(
            heads=int(usual(config, "num_attention_heads")),
            head_dim=int(usual(config, "attention_head_dim")),
            latent_channels=int(usual(config, "in_channels")) // 4,
            guidance=Guidance.TRUE,
            negative_prompt=" ",
        )

    def prompt_tokens(self, folder: Path) -> int:
        return longest_prompt(TOKENIZER, folder / "tokenizer", LONGEST_PROMPT)

    def from_shapes(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
        return from_shapes(shapes)

    @property
    def usual_pipeline(self) -> str:
        return PIPELINES[0]

    def usual(self, model: Model, facts: Facts) -> Model:
        return attrs.evolve(model, steps=STEPS, guidance=GUIDANCE)

    # -------------------------------------------------------------------------------------------------------- LoRAs

    def target(self, name: str) -> Target | None:
        from dit360_model_qwen import lora_names  # tables that only a LoRA's file needs

        return lora_names.find(name)

    # ------------------------------------------------------------------------------------------------------ networks

    @functools.cached_property
    def networks(self) -> Networks:
        with explain_broken_import():
            from dit360_model_qwen.networks import QwenImageNetworks  # imports PyTorch and diffusers

        return QwenImageNetworks(self)


QWEN_IMAGE = QwenImage()
"""It holds nothing, so that one does."""
