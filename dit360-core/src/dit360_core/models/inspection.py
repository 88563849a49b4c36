"""What a file of weights is: whose, in which form, what of a model it holds, what it fits and lacks."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError
from dit360_core.models.architecture import DENOISER, Architecture, Part
from dit360_core.models.families import architectures
from dit360_core.models.from_files import family_of, known_models
from dit360_core.models.settings import settings_in
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.forms.opening import form_of, open_file
from dit360_core.models.weights.forms.renaming import holds, own_names, part_in_file, prefix_of
from dit360_core.plugins.registry import Registry

_FACTOR = re.compile(r"\.(lora_[AB](\.[\w-]+)?\.weight|lora_(up|down)\.weight|lora\.(up|down)\.weight|lokr_|hada_w)")
_SCHEMES = (
    ("LoKr (LyCORIS)", r"\.lokr_"), ("LoHa (LyCORIS)", r"\.hada_w"), ("DoRA", r"dora_scale|lora_magnitude_vector"),
    ("kohya's names", r"^lora_(unet|te\d?|transformer)_"), ("PEFT's names", r"^base_model\.model\."),
    ("ComfyUI's names", r"^diffusion_model\."), ("diffusers' names", r"^transformer\."),
)  # fmt: skip
_RANKED = re.compile(r"\.(lora_A(\.[\w-]+)?|lora_down|lora\.down)\.weight$")


def inspected(path: Path, registry: Registry) -> dict[str, Any]:
    """What there is to tell of a file. Raises ModelError for one that is damaged or no file of weights."""
    entry = form_of(path, registry)
    file = open_file(path, registry=registry)
    bytes_ = sum(about.bytes for about in file.tensors.values())
    numbers = sum(math.prod(about.shape) for about in file.tensors.values())
    told: dict[str, Any] = {
        "format": entry.name,
        "bytes": path.stat().st_size,
        "tensors": len(file.tensors),
        "numbers": numbers,
        "bits": round(8 * bytes_ / numbers, 2) if numbers else None,
        "forms": dict(Counter(about.form for about in file.tensors.values())),
        "unused": dict(file.unused),
    }
    if any(_FACTOR.search(name) for name in file.tensors):
        return {**told, "kind": "LoRA", **_lora(file, registry)}
    parts = _parts(file, registry)
    if not parts:
        first = sorted(file.tensors)[:3]
        return {**told, "kind": "unknown", "why": f"no family that is installed has tensors such as {', '.join(first)}"}
    kept = settings_in(file)
    return {
        **told,
        "kind": "weights",
        "parts": parts,
        "made_from": kept.get("made_from"),
        "run_with": kept["model"],
        "loras": kept["loras"],
    }


# ---------------------------------------------------------------------------------------------------------- the parts


def _parts(file: WeightsFile, registry: Registry) -> list[dict[str, Any]]:
    """Every part of a family that the file holds, and of how many families that may be."""
    whose = family_of(file, registry)
    found = []
    for family in [whose[0]] if whose is not None else list(architectures(registry)):
        for part in family.parts:
            prefix = prefix_of(part, file.tensors)
            if (whose is None or part.name == DENOISER or prefix) and holds(part, file.tensors):
                found.append(_part(file, family, part, prefix, registry))
    # Families have parts of the same names; one that fits is no other's.
    return [part for part in found if part["fits"]] or found


def _part(file: WeightsFile, family: Architecture, part: Part, prefix: str, registry: Registry) -> dict[str, Any]:
    mine = {short: file.tensors[name] for short, name in own_names(family, part, file.tensors).items()}
    bytes_, numbers = sum(a.bytes for a in mine.values()), sum(math.prod(a.shape) for a in mine.values())
    told: dict[str, Any] = {
        "family": family.title,
        "part": part.words,
        "prefix": prefix,
        "tensors": len(mine),
        "bits": round(8 * bytes_ / numbers, 2) if numbers else None,
        "forms": dict(Counter(about.form for about in mine.values())),
        "option": family.given_as(part.name),
        "notes": [],
    }
    if part.name == DENOISER:
        shapes = {short: about.shape for short, about in mine.items()}
        of_shapes = family.from_shapes(shapes, file.file.stem)
        told["configuration"] = None if of_shapes is None else dict(of_shapes.transformer)
        told["notes"] = [] if of_shapes is None else list(of_shapes.notes)
    return {**told, **_fits(file, family, part, registry)}


def _fits(file: WeightsFile, family: Architecture, part: Part, registry: Registry) -> dict[str, Any]:
    """Which named models have such a part, and what is wrong with it for the one that it is most like."""
    from dit360_core.models.weights.stream import wanted_of  # imports torch, which no other report needs

    fits: list[str] = []
    nearest: tuple[int, str, dict[str, Any]] | None = None
    for model, folder in known_models(family, registry):
        try:
            wanted = wanted_of(family.networks, part.name, folder / part.name)
        except ModelError:
            continue
        found = part_in_file(family, part, wanted, file.tensors)
        off = len(found.missing) + len(found.misshapen) + len(found.strange)
        if not off:
            fits.append(model.name)
            continue
        about = {
            "model": model.name,
            "lacks": list(found.missing[:5]),
            "misshapen": {name: list(shape) for name, shape in list(found.misshapen.items())[:5]},
            "beside": list(found.strange[:5]),
            "count": off,
        }
        if nearest is None or off < nearest[0]:
            nearest = off, model.name, about
    return {"fits": fits, "nearest": None if fits or nearest is None else nearest[2]}


# -------------------------------------------------------------------------------------------------------------- LoRAs


def _lora(file: WeightsFile, registry: Registry) -> dict[str, Any]:
    ranks = Counter(about.shape[0] for name, about in file.tensors.items() if _RANKED.search(name) and about.shape)
    schemes = [scheme for scheme, pattern in _SCHEMES if any(re.search(pattern, name) for name in file.tensors)]
    stems = {_FACTOR.split(name)[0] for name in file.tensors if _FACTOR.search(name)}
    families: list[dict[str, Any]] = []
    for family in architectures(registry):
        targets = Counter(
            family.part(target.part).words for stem in stems if (target := family.target(stem)) is not None
        )
        if targets:
            families.append({"family": family.title, "layers": dict(targets), "of": len(stems)})
    families.sort(key=lambda each: -sum(each["layers"].values()))
    return {"schemes": schemes, "ranks": {str(rank): count for rank, count in ranks.items()}, "layers": families}
