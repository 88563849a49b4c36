"""The options that a picture was made with, for another one like it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import InputError, named
from dit360_core.options import DecodeOptions, EditOptions, LoadOptions, PhotoOptions, SampleOptions, options_of
from dit360_core.panorama.picture import Panorama

_OF_ANOTHER = {"denoise", *options_of(EditOptions), *options_of(PhotoOptions)}
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
    classes = (SampleOptions, DecodeOptions, EditOptions, PhotoOptions)
    known = {name for cls in classes for name in options_of(cls)}
    told = dict(requested) if isinstance(requested, Mapping) else {}
    found |= {name: value for name, value in told.items() if name in known}
    if isinstance(used.get("seed"), int):
        found["seed"] = used["seed"]
    found |= _of_the_model(used)
    sentences = []
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
    found |= {name: own[name].default for name in ("model", "quantization_mode")}
    del found["prompt"]
    return {**found, "lora": None}


def _of_the_model(used: Mapping[str, Any]) -> dict[str, Any]:
    """The model that was used, by the name that finds it again, and its LoRAs beside its own."""
    found: dict[str, Any] = {}
    name = used.get("model")
    if isinstance(name, str) and name and name != options_of(LoadOptions)["model"].default:
        found["model"] = used.get("base") if name == "given" and isinstance(used.get("base"), str) else name
    loras = used.get("loras")
    given = [
        f"{one['from']}:{one.get('strength', 1.0):g}"
        for one in (loras if isinstance(loras, list) else [])
        if isinstance(one, Mapping) and isinstance(one.get("from"), str) and not one.get("own", False)
    ]
    if given:
        found["lora"] = given
    quantization = used.get("quantization")
    mode = quantization.get("requested") if isinstance(quantization, Mapping) else None
    if isinstance(mode, str) and mode not in ("none", "auto"):
        found["quantization_mode"] = mode
    return found
