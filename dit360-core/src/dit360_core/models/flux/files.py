"""All that looks at FLUX's files, for the architecture, which imports it when files are looked at."""

from __future__ import annotations

from dit360_core.models.flux.folder import FLUX_FOLDER, prompt_tokens
from dit360_core.models.flux.replaced import check_fits, notes

read_config = FLUX_FOLDER.read_config

__all__ = ["FLUX_FOLDER", "check_fits", "notes", "prompt_tokens", "read_config"]
