"""Which family a model belongs to, and where its folder is.

A further family is a line in :data:`ARCHITECTURES`, until families come from plugins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError
from dit360_core.models.architecture import DENOISER, Architecture, Facts
from dit360_core.models.flux.architecture import FLUX
from dit360_core.plugins.offers import Model
from dit360_core.system.naming import existing, looks_like_hub_id

ARCHITECTURES: tuple[Architecture, ...] = (FLUX,)
"""All families, the usual one first."""


def architecture_of(folder: Path) -> Architecture:
    """The family of a model's folder, by its ``model_index.json`` and its transformer's configuration.

    The usual family for a folder that none recognises: its check says what is wrong.
    """
    index, denoiser = (_described(folder / name) for name in ("model_index.json", f"{DENOISER}/config.json"))
    return next((each for each in ARCHITECTURES if each.recognises(index, denoiser)), ARCHITECTURES[0])


def architecture_for(pipe: object) -> Architecture:
    """The family of a loaded pipeline of diffusers; the usual one for a pipeline of none, whose check says so."""
    return next((each for each in ARCHITECTURES if each.has_made(pipe)), ARCHITECTURES[0])


def _described(file: Path) -> dict[str, Any]:
    # What is wrong with a file is said by the family's check.
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def facts_of(folder: Path) -> Facts:
    """What the transformer's configuration in a folder of ours says, which nobody need look at first."""
    return architecture_of(folder).facts_of(_described(folder / DENOISER / "config.json"))


def expected(model: Model) -> Architecture:
    """The family of a model that may not be on this machine yet: of its folder, or of the shapes that it brings."""
    folder = existing(model.base) or (Path(model.shape) if model.shape is not None else None)
    return ARCHITECTURES[0] if folder is None else architecture_of(folder)


def model_files() -> list[str]:
    """Patterns of what is fetched of a model's repository.

    Many hold their weights twice, once as a single file beside diffusers' folders; only the folders are wanted.
    """
    folders = dict.fromkeys(name for each in ARCHITECTURES for name in each.folders)
    return ["model_index.json", "dit360.json", *(f"{name}/*" for name in folders)]


def check_model(folder: Path) -> None:
    """Raises ModelError unless a folder holds a whole model of a family that is known."""
    architecture_of(folder).check_folder(folder)


def locate(base: str) -> Path:
    """The folder of a model given as folder or Hub id, checked. Raises ModelError."""
    from dit360_core.models.weights.hub import explain_the_cache, fetch  # its client is slow to import

    folder = existing(base)
    if folder is None and looks_like_hub_id(base):
        folder = fetch(base, model_files())
        with explain_the_cache(base):
            check_model(folder)
        return folder
    if folder is None:
        raise ModelError(f"There is no folder {base}; give a diffusers folder, a Hub id, or a known model name.")
    check_model(folder)
    return folder


def shape_folder(model: Model) -> Path:
    """A folder with the configurations of a model's parts: its own, what its offer brings, or fetched from the Hub."""
    if existing(model.base) is not None:
        return locate(model.base)
    if model.shape is not None:
        return Path(model.shape)
    from dit360_core.models.weights.hub import fetch  # as above

    return fetch(model.base, ["*.json"])
