"""What is in the local files that a model is made of: other weights by the same name are another model."""

from __future__ import annotations

from dit360_core.errors import InputError
from dit360_core.options import REPLACING, LoadOptions
from dit360_core.planning.loras import lora_uses
from dit360_core.plugins.offers import Model
from dit360_core.system.contents import content_of
from dit360_core.system.naming import existing


def contents_of(loading: LoadOptions, model: Model) -> dict[str, str]:
    """Option → fingerprint of what it names on this machine.

    model: as those options mean it.

    Raises InputError for what cannot be read.
    """
    places = {name: getattr(loading, name) for name in REPLACING}
    loras = lora_uses(loading, model)
    if model.name == "given":
        places["model"] = model.base
    found = {name: content for name, given in places.items() if given and (content := content_at(given))}
    contents = [(content_at(lora.name), lora) for lora in loras]
    if loading.lora or any(content for content, _ in contents):
        # In the place of their names, as for every other file; their order changes nothing.
        every = sorted(f"{content or lora.name}:{lora.strength:g}" for content, lora in contents)
        found["lora"] = " ".join(every)
    return found


def content_at(name: str) -> str:
    """Fingerprint of a file or folder; empty: none of that name is here. Raises InputError if it cannot be read."""
    place = existing(name)
    if place is None:
        return ""
    try:
        return content_of(place)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read ({error.strerror or error}); check the name and its permissions."
        ) from error
