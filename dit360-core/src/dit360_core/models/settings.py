"""What a model's folder tells in ``dit360.json``: what its name stood for, and the LoRAs in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, ModelError
from dit360_core.models.architecture import DENOISER, Architecture
from dit360_core.models.weights.schema import read_json, tell_others
from dit360_core.plugins.defaults import check_defaults, lower_first
from dit360_core.plugins.offers import Model

SETTINGS = "dit360.json"
"""In a model's folder: what the name of the model that it was made from stood for."""


KEPT = (
    "prompt_prefix", "width", "height", "steps", "guidance", "circular_padding", "latent_rotation",
    "position_interpolation", "precision",
)  # fmt: skip
"""Of a model, what its files do not tell."""


_WRITTEN = {"format", "made_from", "model", "loras", "lora"}
"""The keys of that file, beside the options that replace a part. ``lora`` is of folders that were written when there
could be one."""


_DAMAGED = "{} is damaged ({}); delete it to use defaults."


def with_settings(model: Model, folder: Path, architecture: Architecture) -> Model:
    """A model given by its folder alone, with what the folder tells of size, prompt prefix, steps and so on.

    architecture: the folder's.

    Raises ModelError for settings that are damaged.
    """
    if model.name != "given":
        return model
    if (folder / DENOISER / "config.json").is_file():
        model = architecture.usual(model, architecture.facts(folder))
    file = folder / SETTINGS
    if not file.is_file():
        return model
    settings = read_json(file)
    told = settings.get("model")
    if not isinstance(told, dict):
        raise ModelError(_DAMAGED.format(file, f"its model is {told!r:.60}"))
    tell_others(
        file,
        [
            *(settings.keys() - _WRITTEN - architecture.replaceable.keys()),
            *(f"model.{key}" for key in told.keys() - set(KEPT)),
        ],
    )
    try:
        made = attrs.evolve(model, **{name: told[name] for name in KEPT if name in told})
        check_defaults(made)
    except InputError as error:
        raise ModelError(_DAMAGED.format(file, lower_first(str(error)).rstrip("."))) from error
    except (TypeError, ValueError) as error:
        # Of attrs, with the field and the value: its own sentence speaks of Python's classes.
        _, field, _, value = error.args
        raise ModelError(_DAMAGED.format(file, f"its {field.name} is {value!r:.60}")) from error
    return made


def remembered_loras(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """What a model's folder tells of the LoRAs that are in its stored weights."""
    file = folder / SETTINGS
    told = read_json(file) if file.is_file() else {}
    # Folders that were written when there could be one LoRA have it by itself.
    loras = told.get("loras", [] if told.get("lora") is None else [told["lora"]])
    if not isinstance(loras, list) or not all(isinstance(lora, dict) and "from" in lora for lora in loras):
        raise ModelError(f"{file} is damaged (its loras are {loras!r:.60}); quantize the model again.")
    return tuple(loras)
