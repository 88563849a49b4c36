"""The options that a picture was made with, for another one like it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, named, setting
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
from dit360_core.panorama.metadata import SHORTENED
from dit360_core.panorama.opening import read_picture
from dit360_core.panorama.photos import fov_of, parsed
from dit360_core.panorama.picture import Panorama
from dit360_core.plugins.registry import default_registry

_OF_A_MODEL = (
    "precision", "lora_strength", "lora_mode", "quantization_parts", "quantization_skip", "vae_tile_size",
    "vae_tile_overlap", "vae_auto_tile_pixels",
)  # fmt: skip
"""Options of a model that change what is painted, and of which metadata tell as they were given."""
_AS_USED = ("model", "model_lora", "lora", "quantization_mode", *REPLACING)
"""Options of a model of which metadata tell better what became of them."""
_NOT_SHOWN = {
    "log_memory_stats", "models_dir", "device", "offload", "evict", "compile_blocks", "vram", "ram", "preset",
    "attention_backend", "attention_slice_size", "strict",
}  # fmt: skip
"""Options that say how and where a picture is computed, not what it shows."""
_CHOOSING = ("vram", "ram", "preset", "quantization_mode")
"""Options that may have chosen a quantization."""
_OF_ANOTHER = {"denoise", *options_of(EditOptions), *options_of(PhotoOptions), *options_of(LargerOptions)}
"""Options that say what becomes of another picture, which the file does not hold."""
_OF_A_PICTURE = {name for cls in OF_A_LINE for name in options_of(cls)}
# What both have is the model's on a command line.
_DEFAULTS = {name: about.default for cls in (*OF_A_LINE, LoadOptions) for name, about in options_of(cls).items()}
_GIVE_WAY: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("tiling_mode", "never", ("tiling_level",)),
    ("quantization_mode", "none", ("quantization_parts", "quantization_skip")),
    ("circular_padding", 0, ("circular_mode",)),
    ("paste_back", False, ("match_colours",)),
    ("match_colours", False, ("paste_back",)),
)
"""(an option, its value, options that would have no effect beside it)."""
_PLACING = tuple(options_of(PhotoOptions))


@attrs.frozen(kw_only=True)
class Beside:
    """What is given beside the picture that another one is to be like.

    prompt, image, mask: whether there is one.
    photos: each as ``FILE;fov=60;yaw=90``.
    typed: options that stand on the command line, with their values; they count before the picture's.
    """

    prompt: bool = False
    image: bool = False
    mask: bool = False
    photos: tuple[str, ...] = ()
    typed: Mapping[str, Any] = attrs.field(factory=dict)


def options_like(file: Path, beside: Beside | None = None) -> tuple[dict[str, Any], list[str]]:
    """(options by name, the prompt among them; sentences on what of them cannot be known, or has no place here).

    file: a picture of dit360's.
    beside: what is given with it; None: nothing.

    Raises InputError if it cannot be read, holds no settings, or only the beginning of a text that is not given.
    """
    beside = beside or Beside()
    settings = Panorama.open(file).settings
    prompt, requested, used = (settings.get(name) for name in ("prompt", "requested", "used"))
    if not isinstance(prompt, str) or not isinstance(used, Mapping):
        raise InputError(f"{file} does not say what it was made with; name a picture as dit360 saved it.")
    found: dict[str, Any] = {"prompt": prompt}
    if isinstance(settings.get("negative_prompt"), str):
        found["negative_prompt"] = settings["negative_prompt"]
    told = dict(requested) if isinstance(requested, Mapping) else {}
    sentences: list[str] = []
    if told.pop("shortened", False):
        sentences.append(f"{file} does not name all options that it was made with, for want of room in metadata.")
    taken = _OF_A_PICTURE - _OF_ANOTHER - {"log_memory_stats"}
    found |= {name: value for name, value in told.items() if name in taken}
    if isinstance(used.get("seed"), int):
        found["seed"] = used["seed"]
    model = {name: told[name] for name in _OF_A_MODEL if name in told} | _of_the_model(used, file, sentences)
    said = {name: value for name, value in model.items() if name not in beside.typed}
    if said:
        says = ", ".join(f"{named(name)} {_shown(value)}" for name, value in said.items())
        sentences.append(f"{file} says: {says}.")
    found |= model
    sentences += _left(file, told, used, found, beside.typed)
    another = _Another.of(file, settings, told, used)
    found |= another.options(beside, sentences)
    _give_way(file, found, beside.typed, sentences)
    _check_whole(file, found, beside)
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
    for name in ("prompt", "log_memory_stats"):
        del found[name]
    return {**found, "lora": None}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _settings(options: Mapping[str, Any]) -> str:
    """Options with their values, as they are given."""
    return ", ".join(setting(name, value) for name, value in options.items())


def _are(several: Mapping[str, Any]) -> str:
    return "is" if len(several) == 1 else "are"


# ------------------------------------------------------------------------------------------------ what is not taken


def _left(
    file: Path, told: Mapping[str, Any], used: Mapping[str, Any], found: Mapping[str, Any], typed: Mapping[str, Any]
) -> list[str]:
    """Sentences on options that were asked for, would show, and are not taken."""
    sentences = []
    known = _OF_A_PICTURE | options_of(LoadOptions).keys()
    unknown = sorted(set(told) - known)
    if unknown:
        sentences.append(f"{file} was made with {', '.join(unknown)}, which this version does not know; left out.")
    elsewhere = {*_OF_ANOTHER, *_NOT_SHOWN, *(name for name in _AS_USED if _is_told(name, told, used))}
    left = {name: told[name] for name in told if name in known - elsewhere - found.keys() - typed.keys()}
    if left:
        sentences.append(
            f"{file} was made with {_settings(left)}, and does not say what became of that; give it, if it is meant."
        )
    quantization = used.get("quantization")
    mode = quantization.get("used") if isinstance(quantization, Mapping) else None
    chosen = isinstance(mode, str) and mode != "none" and "quantization_mode" not in {*found, *typed}
    if chosen and any(name in told for name in _CHOOSING):
        sentences.append(
            f"{file} was made with {setting('quantization_mode', mode)}, which was chosen there by memory; give that "
            "for the same picture."
        )
    return sentences


def _is_told(name: str, told: Mapping[str, Any], used: Mapping[str, Any]) -> bool:
    """Whether what was used says what became of an option."""
    if name in ("lora", "model_lora"):
        return isinstance(used.get("loras"), list)
    if name == "quantization_mode":
        return told.get(name) in ("none", "auto")
    return isinstance(used.get(name), str)


def _give_way(file: Path, found: dict[str, Any], typed: Mapping[str, Any], sentences: list[str]) -> None:
    """Takes out of what was found what contradicts what is typed, or has no effect beside it.

    sentences: takes what is left out.
    """
    for one, other in (("width", "height"), ("height", "width")):
        if one in typed and other not in typed:
            found.pop(other, None)  # which follows from it
    names = [name for given, value, others in _GIVE_WAY if given in typed and typed[given] == value for name in others]
    if typed.get("tiling_level", "auto") != "auto" and found.get("tiling_mode") == "never":
        names.append("tiling_mode")
    if "model" in typed and not _has_own(typed["model"]):
        names.append("model_lora")
    if "scheduler_type" in typed:
        obeyed = _obeyed(typed["scheduler_type"])
        names += [name for name in ("timestep_schedule", "scheduler_eta") if name not in obeyed]
    out = {name: found.pop(name) for name in names if name in found and name not in typed}
    out = {name: value for name, value in out.items() if value != _DEFAULTS[name]}
    if out:
        sentences.append(f"{file} has {_settings(out)}, without effect beside what is given; left out.")


def _obeyed(scheduler: str) -> frozenset[str]:
    """Options that a scheduler obeys; all, where nobody knows yet which it is."""
    offers = [entry.offer for entry in default_registry().entries("scheduler") if entry.name == scheduler]
    return frozenset(offers[0].honours) if offers else frozenset(("timestep_schedule", "scheduler_eta"))


def _check_whole(file: Path, found: Mapping[str, Any], beside: Beside) -> None:
    """Raises InputError for a text of which the file holds the beginning alone, unless another one is given."""
    for name, value in found.items():
        texts = value if isinstance(value, list) else [value]
        if not any(isinstance(text, str) and text.endswith(SHORTENED.strip()) for text in texts):
            continue
        if name == "prompt" and not beside.prompt:
            raise InputError(
                f"{file} holds only the beginning of its prompt, as metadata have no room for more; give the whole "
                f"prompt beside {named('like')}."
            )
        if name != "prompt" and name not in beside.typed:
            raise InputError(
                f"{file} holds only the beginning of {named(name)}, as metadata have no room for more; give "
                f"{named(name)} beside {named('like')}."
            )


# --------------------------------------------------------------------------------------- what was made of another one


@attrs.frozen(kw_only=True)
class _Another:
    """What a picture was made of that it does not hold.

    file: of the picture.
    asked: options about it, as they were asked for.
    image, mask: whether there was one.
    photos: as metadata tell of them.
    kept: whether a part was kept.
    transparent: whether the image had holes.
    """

    file: Path
    asked: Mapping[str, Any]
    image: bool
    mask: bool
    photos: tuple[Mapping[str, Any], ...]
    kept: bool
    transparent: bool

    @classmethod
    def of(cls, file: Path, settings: Mapping[str, Any], told: Mapping[str, Any], used: Mapping[str, Any]) -> _Another:
        """As the settings of a file tell."""
        told_of = used.get("hold")
        hold: Mapping[str, Any] = told_of if isinstance(told_of, Mapping) else {}
        several = hold.get("photos")
        photos = tuple(one for one in several if isinstance(one, Mapping)) if isinstance(several, list) else ()
        asked = {name: value for name, value in told.items() if name in _OF_ANOTHER}
        mask, transparent = "mask" in hold, hold.get("transparency") is True
        needs = mask or transparent or "enlarged" in settings or "denoise" in asked or "region" in asked
        return cls(
            file=file,
            asked=asked,
            image=needs or (bool(hold or asked) and not photos),
            mask=mask,
            photos=photos,
            kept=bool(hold),
            transparent=transparent,
        )

    def options(self, beside: Beside, sentences: list[str]) -> dict[str, Any]:
        """Those that have a place with what is given.

        sentences: takes what is missing, and what is left out.
        """
        if not (self.image or self.photos):
            return {}
        usable = self._usable(beside)
        # At their defaults too, which count before those of a user's own.
        found = {name: self.asked.get(name, _DEFAULTS[name]) for name in usable}
        sentences += self._missing(beside)
        placed = self._placed(beside, sentences)
        out = {name: value for name, value in self.asked.items() if name not in {*found, *placed, *beside.typed}}
        if out:
            sentences.append(f"Of {self.file}, {_settings(out)} {_are(out)} left out{self._because(out, beside)}.")
        return found | placed

    def _usable(self, beside: Beside) -> list[str]:
        """Options of what becomes of an image, a mask or photos that are given."""
        region = beside.image and (self.mask or not beside.mask) and "region" in self.asked
        where = beside.mask or region or "region" in beside.typed or self.transparent
        names = ["denoise"] if beside.image else []
        names += ["region"] if region else []
        names += ["mask_means"] if beside.image and beside.mask else []
        if self.kept and (beside.photos or (beside.image and where)):
            names += [name for name in options_of(EditOptions) if name not in ("region", "mask_means")]
        return names

    def _because(self, out: Mapping[str, Any], beside: Beside) -> str:
        if set(out) <= set(options_of(LargerOptions)):
            return ", as no picture is made larger here"
        if set(out) == {"region"} and beside.image and beside.mask:
            return ", as the mask says what is made anew; give it too, if both are meant"
        return ""

    def _missing(self, beside: Beside) -> list[str]:
        """A sentence on what it was made of and is not given."""
        parts = {
            "image": ("of another picture", self.image and not beside.image),
            "mask": ("with a mask", self.mask and not beside.mask),
            "photo": (f"around {self._as_given()}", bool(self.photos) and not beside.photos),
        }
        missing = {name: what for name, (what, misses) in parts.items() if misses}
        if not missing:
            return []
        that = "that" if len(missing) == 1 else "those"
        without = "is made without" if beside.image or beside.photos else "begins with nothing"
        return [
            f"{self.file} was made {' and '.join(missing.values())}, which it does not hold; give {that} with "
            f"{' and '.join(map(named, missing))}, or the new one {without}."
        ]

    def _as_given(self) -> str:
        """The photos, as a command line names them."""
        texts = (
            ";".join(
                (str(photo.get("name", "")), *(f"{name}={_number(value)}" for name, value in _angles(photo).items()))
            )
            for photo in self.photos
        )
        return ", ".join(f'the photo "{text}"' for text in texts)

    def _placed(self, beside: Beside, sentences: list[str]) -> dict[str, Any]:
        """Where the photo lies, for the one that is given in its place.

        sentences: takes what is taken or left out.
        """
        if not self.photos or not beside.photos:
            return {}
        if len(self.photos) > 1 or len(beside.photos) > 1:
            sentences.append(
                f"{self.file} was made around {self._as_given()}; what is given with {named('photo')} lies where that "
                "says."
            )
            return {}
        angles = _angles(self.photos[0])
        # What stands behind the file counts before options that are given for all.
        own = {pair.partition("=")[0].strip() for pair in beside.photos[0].split(";")[1:]}
        left = {name: value for name, value in angles.items() if name not in {*own, *beside.typed}}
        if not left:
            return {}
        path = parsed(beside.photos[0], PhotoOptions())["path"]
        opened = read_picture(Path(path))
        if any(key in opened.metadata.gpano for key in ("ProjectionType", "FullPanoWidthPixels")):
            sentences.append(f"Of {self.file}, {_settings(left)} {_are(left)} left out, as {path} says where it lies.")
            return {}
        # Metadata tell it rounded: of the same photo, the lens says it exactly.
        if opened.focal is not None and round(fov_of(opened.focal, opened.image.size, path), 4) == left.get("fov"):
            del left["fov"]
        said = {name: _number(value) for name, value in left.items() if value}
        if said:
            sentences.append(f"{self.file} says of its photo: {_settings(said)}.")
        return left


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _angles(photo: Mapping[str, Any]) -> dict[str, float]:
    """Where a photo lies, as metadata tell; empty where its own metadata said so."""
    return {
        name: float(photo[name])
        for name in _PLACING
        if isinstance(photo.get(name), int | float) and not isinstance(photo[name], bool)
    }


# -------------------------------------------------------------------------------------------------------- the model


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
