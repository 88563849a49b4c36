"""Which LoRAs are applied, and how strongly: the model's own, and those that somebody names beside it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, ModelError, named, remedy
from dit360_core.models.architecture import Given
from dit360_core.models.lora.finding import locate
from dit360_core.models.settings import HASH, hash_of, settings_in
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.options import LARGEST_STRENGTH, LoadOptions
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry
from dit360_core.system.naming import existing

SEPARATOR = "|"
"""Between LoRAs in one text, as in a cell of a list: no file's name on Windows and hardly one elsewhere holds it."""


@attrs.frozen(kw_only=True)
class LoraUse:
    """A LoRA as it is asked for, and what became of it.

    name: file, folder or Hub id.
    own: whether it is the model's.
    modules: layers that it changes.
    used, tensors: how many of its file's tensors are in these, and how many it holds.
    """

    name: str
    strength: float
    own: bool = False
    modules: int = 0
    used: int = 0
    tensors: int = 0

    def sentence(self) -> str:
        """For the log."""
        told = f"{self.name}, strength {self.strength:g}, {self.modules} modules"
        return told + (f", {self.used} of its {self.tensors} tensors" if self.tensors else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            "from": self.name,
            "strength": self.strength,
            "own": self.own,
            "modules": self.modules,
            "tensors_used": self.used,
            "tensors": self.tensors,
        }


def lora_uses(options: LoadOptions, model: Model) -> tuple[LoraUse, ...]:
    """All LoRAs of a model that is loaded with these options, its own first.

    One that is named without a strength has ``lora_strength``; so has the model's own if no other is named, and 1
    otherwise. The model's own may be named too, to give it a strength beside others. Raises InputError for a strength
    that is none.
    """
    found: list[LoraUse] = []
    own = model.lora if options.model_lora else None
    for text in options.lora:
        name, strength = split(text)
        mine = own is not None and _same(name, own)
        found.append(
            LoraUse(name=name, strength=options.lora_strength if strength is None else strength, own=mine)
        )  # fmt: skip
    if own is not None and not any(each.own for each in found):
        found.insert(0, LoraUse(name=own, strength=1.0 if found else options.lora_strength, own=True))
    return tuple(sorted(found, key=lambda each: not each.own))


def follows_default(options: LoadOptions, model: Model) -> bool:
    """Whether ``lora_strength`` is any LoRA's."""
    named = [split(text)[1] for text in options.lora]
    return None in named or (not named and options.model_lora and model.lora is not None)


def split(text: str) -> tuple[str, float | None]:
    """``FILE[:STRENGTH]``: the name and the strength, None if it has none.

    A name may hold colons itself (``C:/loras/a.safetensors``): what is there under the whole text is that, and
    only a number after the last colon is a strength. Raises InputError for a strength out of range.
    """
    name, colon, number = text.rpartition(":")
    if not colon or not name or is_there(text):
        return text, None
    try:
        strength = float(number)
    except ValueError:
        comma = number.replace(",", ".", 1)
        if comma != number and comma.replace(".", "", 1).lstrip("+-").isdigit():
            raise InputError(
                f"The strength of the LoRA {name} is written {number}; write {comma}, with a point."
            ) from None
        return text, None
    if not math.isfinite(strength) or abs(strength) > LARGEST_STRENGTH:
        raise InputError(
            f"The strength of the LoRA {name} is {number}, but must be {-LARGEST_STRENGTH:g} … {LARGEST_STRENGTH:g}."
        )
    return name, strength


def names_in(given: Any) -> tuple[str, ...]:
    """The LoRAs of a cell or field of a list: a text, with ``|`` between several, or a list of texts."""
    texts: Iterable[Any] = given if isinstance(given, list | tuple) else [given]
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{named('lora')} must be FILE[:STRENGTH], or a list of such texts, not {text!r:.80}.")
        found += [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    return tuple(found)


def is_there(name: str) -> bool:
    """Whether it is the name of a file or folder on this machine."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name; the home of nobody; a null character
        return False


def _same(name: str, other: str) -> bool:
    if name == other:
        return True
    return is_there(name) and is_there(other) and Path(name).expanduser().samefile(Path(other).expanduser())


@attrs.frozen(kw_only=True)
class InFiles:
    """LoRAs that files of weights say they hold, where ``dit360 quantize`` wrote them.

    told: what is told of each.
    note: that the model's own is one of them, and is not added again; empty if it is not.
    """

    told: tuple[Mapping[str, Any], ...] = ()
    note: str = ""


def in_files(replaced: Iterable[Given], loras: Iterable[LoraUse], registry: Registry) -> InFiles:
    """What the files of parts say of LoRAs in them.

    replaced: the parts that were given.
    loras: that are to be applied.
    registry: of the forms of files.

    Raises InputError for a LoRA that somebody names and that is there already.
    """
    found: list[Mapping[str, Any]] = []
    note = ""
    for given in replaced:
        if given.path is None or not given.path.is_file():
            continue
        for there in settings_in(open_file(given.path, registry=registry))["loras"]:
            found.append(there)
            twice = next((lora for lora in loras if _is(lora.name, there)), None)
            if twice is None:
                continue
            if not twice.own:
                raise InputError(
                    f"{given.path} already holds the LoRA {twice.name}, which would be added twice; "
                    f"{remedy('leave_out')}."
                )
            note = f"{given.path.name} already holds the model's LoRA {twice.name}, which is not added again"
    return InFiles(told=tuple(found), note=note)


def _is(name: str, told: Mapping[str, Any]) -> bool:
    """Whether a LoRA is the one that a file tells of: by its contents, or by its name on the Hub."""
    if existing(name) is None:
        return bool(name == told["from"])
    with contextlib.suppress(ModelError, OSError):  # told of by whoever reads it
        return HASH in told and bool(hash_of(locate(name)) == told[HASH])
    return False
