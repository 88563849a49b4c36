"""What a folder tells in ``dit360.json``, and a single file in its header: what a model's name stood for, and LoRAs."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import attrs

from dit360_core.errors import InputError, ModelError, one_line
from dit360_core.models.architecture import DENOISER, Architecture
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.schema import read_json, tell_others
from dit360_core.plugins.defaults import check_defaults, lower_first
from dit360_core.plugins.offers import Model
from dit360_core.system.naming import existing, looks_like_hub_id

SETTINGS = "dit360.json"
"""In a model's folder: what the name of the model that it was made from stood for."""


KEPT = (
    "prompt_prefix", "width", "height", "steps", "guidance", "circular_padding", "latent_rotation",
    "position_interpolation", "cube_consistency", "precision",
)  # fmt: skip
"""Of a model, what its files do not tell."""


HASH = "sha256"
"""Key of what is told of a LoRA: its file's."""
_OF_A_LORA: Mapping[str, tuple[type, ...]] = {
    "from": (str,), "strength": (int, float), "own": (bool,), "modules": (int,), "tensors_used": (int,),
    "tensors": (int,), "mode": (str,), HASH: (str,),
}  # fmt: skip
_LONGEST_NAME = 300
IN_A_FILE = "dit360"
"""In the header of a single file: the same, as JSON."""


_WRITTEN = {"format", "made_from", "model", "loras", "lora"}
"""The keys of that file, beside the options that replace a part. ``lora`` is of folders that were written when there
could be one."""


_DAMAGED = "{} is damaged ({}); delete it to use defaults."


def settings_of(
    model: Model, made_from: str, loras: Iterable[Mapping[str, Any]], replaced: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What is kept of a model beside its weights.

    model: with its defaults.
    made_from: its name or folder.
    loras: in its weights.
    replaced: option → what was given for a part.
    """
    return {
        "format": 1,
        "made_from": made_from,
        "loras": list(loras),
        **(replaced or {}),
        "model": {name: getattr(model, name) for name in KEPT},
    }


def settings_in(file: WeightsFile) -> dict[str, Any]:
    """What a single file that dit360 wrote keeps beside its weights: ``model`` and ``loras``, empty for any other.

    file: opened; it may come from anybody.

    Raises ModelError for what is none of that.
    """
    text = file.metadata.get(IN_A_FILE)
    if text is None:
        return {"model": {}, "loras": []}
    try:
        told = json.loads(text)
        if not isinstance(told, dict) or not isinstance(told.get("model"), dict):
            raise ValueError("no settings of a model")
        loras = told.get("loras", [])
        check_loras(loras)
        return {**told, "loras": [_lora(each) for each in loras]}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.file} has a header that is damaged ({one_line(error)}); write it again.") from error


def _lora(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of one LoRA, as far as it means something. Raises ValueError for what it cannot mean."""
    found = {name: told[name] for name in _OF_A_LORA if name in told}
    for name, value in found.items():
        kinds = _OF_A_LORA[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"its LoRA has the {name} {value!r:.40}")
        if isinstance(value, str) and not (value.isprintable() and len(value) <= _LONGEST_NAME):
            raise ValueError(f"its LoRA has a {name} that cannot be shown")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"its LoRA has the {name} {value}")
    return found


def without_folders(name: str) -> str:
    """A Hub id as it is, and of anything else its last part: for what is given away.

    name: of a model or LoRA, as it was given.
    """
    if looks_like_hub_id(name) and not existing(name):
        return name
    return PureWindowsPath(name).name or name


@functools.lru_cache(maxsize=16)
def _hashed(file: Path, state: tuple[int, int]) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hash_of(file: Path) -> str:
    """SHA-256 of a file, by which it is known whatever it is called."""
    told = file.stat()
    return _hashed(file.resolve(), (told.st_size, told.st_mtime_ns))


def check_loras(loras: Any) -> None:
    """Raises ValueError for what does not tell of LoRAs.

    loras: as JSON has it.
    """
    told = isinstance(loras, list) and all(
        isinstance(lora, dict) and isinstance(lora.get("from"), str) for lora in loras
    )
    if not told:
        raise ValueError(f"its loras are {loras!r:.60}")


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
    try:
        check_loras(loras)
    except ValueError as error:
        raise ModelError(f"{file} is damaged ({error}); quantize the model again.") from error
    return tuple(loras)
