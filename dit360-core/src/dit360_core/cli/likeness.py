"""The options that a picture was made with, for another one like it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import InputError, named
from dit360_core.options import (
    LARGEST_STRENGTH,
    OF_A_LINE,
    REPLACING,
    DecodeOptions,
    EditOptions,
    LargerOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    options_of,
)
from dit360_core.panorama.picture import Panorama
from dit360_core.plugins.registry import default_registry

_OF_A_MODEL = ("precision", "lora_strength", "lora_mode", "quantization_parts", "quantization_skip")
"""Options of a model that change what is painted, and of which metadata tell as they were given."""
_OF_ANOTHER = {"denoise", *options_of(EditOptions), *options_of(PhotoOptions), *options_of(LargerOptions)}
"""Options that say what becomes of another picture, which the file does not hold."""


def options_like(file: Path) -> tuple[dict[str, Any], list[str]]:
    """(options by name, the prompt among them; sentences on what of them cannot be known).

    file: a picture of dit360's.

    Raises InputError if it cannot be read, or holds no settings.
    """
    settings = Panorama.open(file).settings
    prompt, requested, used = (settings.get(name) for name in ("prompt", "requested", "used"))
    if not isinstance(prompt, str) or not isinstance(used, Mapping):
        raise InputError(f"{file} does not say what it was made with; name a picture as dit360 saved it.")
    found: dict[str, Any] = {"prompt": prompt}
    if isinstance(settings.get("negative_prompt"), str):
        found["negative_prompt"] = settings["negative_prompt"]
    of_a_picture = {name for cls in OF_A_LINE for name in options_of(cls)}
    known = of_a_picture | options_of(LoadOptions).keys()
    told = dict(requested) if isinstance(requested, Mapping) else {}
    found |= {name: value for name, value in told.items() if name in of_a_picture}
    if isinstance(used.get("seed"), int):
        found["seed"] = used["seed"]
    sentences: list[str] = []
    model = {name: told[name] for name in _OF_A_MODEL if name in told} | _of_the_model(used, file, sentences)
    if model:
        says = ", ".join(f"{named(name)} {_shown(value)}" for name, value in model.items())
        sentences.append(f"{file} says: {says}.")
    found |= model
    unknown = sorted(set(told) - known)
    if unknown:
        sentences.append(f"{file} was made with {', '.join(unknown)}, which this version does not know; left out.")
    if isinstance(used.get("hold"), Mapping) or set(found) & _OF_ANOTHER:
        sentences.append(
            f"{file} was made of another picture, which it does not hold; give that with {named('image')}, or the new "
            "one begins with nothing."
        )
        for name in set(found) & _OF_ANOTHER:
            del found[name]
    return found, sentences


def defaults() -> dict[str, Any]:
    """What a picture is made with where its settings say nothing."""
    found = {name: one.default for cls in (SampleOptions, DecodeOptions) for name, one in options_of(cls).items()}
    own = options_of(LoadOptions)
    # What both have is the model's on a command line.
    found = {name: value for name, value in found.items() if name not in own}
    found |= {
        name: own[name].default for name in ("model", "model_lora", "quantization_mode", *_OF_A_MODEL, *REPLACING)
    }
    del found["prompt"]
    return {**found, "lora": None}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _of_the_model(used: Mapping[str, Any], file: Path, sentences: list[str]) -> dict[str, Any]:
    """The model that was used, by the name that finds it again, the parts in the place of its own, and its LoRAs.

    sentences: takes what is left out.
    """
    found: dict[str, Any] = {}
    name = used.get("model")
    if isinstance(name, str) and name and name != options_of(LoadOptions)["model"].default:
        found["model"] = used.get("base") if name == "given" and isinstance(used.get("base"), str) else name
    found |= {part: used[part] for part in REPLACING if isinstance(used.get(part), str) and used[part]}
    loras = used.get("loras")
    told = loras if isinstance(loras, list) else []
    own = any(isinstance(one, Mapping) and one.get("own") is True for one in told)
    given = []
    for one in told:
        if isinstance(one, Mapping) and one.get("own") is True:
            continue
        text = _lora(one)
        if text:
            given.append(text)
        else:
            sentences.append(f"{file} tells of a LoRA, and not how it is found; left out.")
    if given:
        found["lora"] = given
    if isinstance(loras, list) and not own and isinstance(name, str) and _has_own(name):
        found["model_lora"] = False
    quantization = used.get("quantization")
    mode = quantization.get("requested") if isinstance(quantization, Mapping) else None
    if isinstance(mode, str) and mode not in ("none", "auto"):
        found["quantization_mode"] = mode
    return found


def _lora(one: Any) -> str:
    """FILE:STRENGTH of a LoRA that a picture tells of; empty: it does not tell that."""
    if not isinstance(one, Mapping):
        return ""
    name, strength = one.get("from"), one.get("strength", 1.0)
    if not isinstance(name, str) or not name or isinstance(strength, bool) or not isinstance(strength, int | float):
        return ""
    return f"{name}:{strength:g}" if -LARGEST_STRENGTH <= strength <= LARGEST_STRENGTH else ""


def _has_own(model: str) -> bool:
    """Whether a known model brings a LoRA of its own, which can be left out."""
    return any(entry.offer.name == model and entry.offer.lora for entry in default_registry().entries("model"))
