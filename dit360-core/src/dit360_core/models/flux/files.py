"""All that looks at FLUX's files, for the architecture, which imports it when files are looked at."""

from __future__ import annotations

from dit360_core.models.flux.composed import check_fits, compose, find
from dit360_core.models.flux.folder import check_model_folder, read_config
from dit360_core.models.flux.tokenizers import longest_prompt

__all__ = ["check_fits", "check_model_folder", "compose", "find", "longest_prompt", "read_config"]
