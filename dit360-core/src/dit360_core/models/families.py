"""Which family a model belongs to, of those that are installed, and where its folder is."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError, one_line, remedy
from dit360_core.models.architecture import DENOISER, Architecture, Facts
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import CORE, Entry, by_priority
from dit360_core.plugins.extras import extra_beginning
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.offers import Model, ModelFamily
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine
from dit360_core.system.naming import existing, looks_like_hub_id

log = logging.getLogger("dit360")

INDEX = "model_index.json"
_loaded: dict[ModelFamily, Architecture] = {}
"""What each offer gave, once."""


# --------------------------------------------------------------------------------------------------- whose a model is


def architecture_of(folder: Path, registry: Registry | None = None) -> Architecture:
    """The family of a model's folder, by its ``model_index.json`` and its transformer's configuration.

    registry: of the plugins; None: those that are installed.

    The usual family for a folder that none recognises: its check says what is wrong. Raises ModelError if the plugin
    whose it is cannot be used.
    """
    index, denoiser = _read(folder / INDEX), _read(folder / DENOISER / "config.json")
    return _architecture(_claiming(index, denoiser, registry or default_registry()), registry)


def architecture_for(pipe: object, registry: Registry | None = None) -> Architecture:
    """The family of a loaded pipeline of diffusers; the usual one for a pipeline of none, whose check says so.

    Raises ModelError for one of a family that is not installed.
    """
    registry, made = registry or default_registry(), type(pipe).__name__
    names = [each.__name__ for each in type(pipe).__mro__]
    found = next((entry for name in names if (entry := _claiming({"_class_name": name}, {}, registry))), None)
    if found is None and (extra := _extra_for(made, registry)) is not None:
        raise ModelError(
            f'The pipeline is a {made}, whose family is not installed; it comes with: pip install "{CORE}[{extra}]".'
        )
    return _architecture(found, registry)


def expected(model: Model, registry: Registry | None = None) -> Architecture:
    """The family of a model that may not be on this machine yet: of its folder, or of the shapes that it brings."""
    folder = known_folder(model)
    return _architecture(None, registry) if folder is None else architecture_of(folder, registry)


def known_folder(model: Model) -> Path | None:
    """Where a model's configurations are: its folder, or the shapes that it brings; None if it has neither here."""
    return existing(model.base) or (Path(model.shape) if model.shape is not None else None)


def facts_of(folder: Path, registry: Registry | None = None) -> Facts:
    """What the transformer's configuration in a folder of ours says, which nobody need look at first."""
    denoiser, index = _read(folder / DENOISER / "config.json"), _read(folder / INDEX)
    return architecture_of(folder, registry).facts_of(denoiser, index)


def architectures(registry: Registry | None = None) -> Iterator[Architecture]:
    """All families that can be used here, the usual one first. One that cannot be opened is left out, and told."""
    for entry in _entries(registry or default_registry()):
        if _reasons(entry):
            continue
        try:
            found = _open(entry)
        except ModelError as error:
            if entry.distribution == CORE:
                raise
            log.warning("%s", error.sentence)
            continue
        yield found


def brought_by(architecture: Architecture, registry: Registry) -> dict[str, str]:
    """A family and the distribution that it comes with, for metadata."""
    entries = (entry for entry in _entries(registry) if _loaded.get(entry.offer) is architecture)
    entry = next(entries, None)
    owner = {} if entry is None else {"distribution": entry.distribution, "version": entry.version}
    return {"used": architecture.title, **owner}


def _entries(registry: Registry) -> list[Entry]:
    """The core's own first: what nobody says anything of is taken for it."""
    entries = registry.entries("architecture")
    return sorted(entries, key=lambda entry: (entry.distribution != CORE, by_priority(entry)))


def _claiming(index: dict[str, Any], denoiser: dict[str, Any], registry: Registry) -> Entry | None:
    """Who says that a folder is of its family; the first of them that can be used."""
    made, told = index.get("_class_name"), denoiser.get("_class_name")
    entries = _entries(registry)
    # A pipeline that nobody runs is its family's to refuse, which knows what it is.
    found = [entry for entry in entries if made in entry.offer.pipelines] or [
        entry for entry in entries if told in entry.offer.transformers
    ]
    return next((entry for entry in found if not _reasons(entry)), found[0] if found else None)


def _reasons(entry: Entry) -> tuple[Any, ...]:
    # What is needed is looked up in metadata; no device decides.
    return entry.refused or judge(entry, Machine(), None)


def _architecture(entry: Entry | None, registry: Registry | None) -> Architecture:
    if entry is None:
        return next(architectures(registry))
    if reasons := _reasons(entry):
        why = "; ".join(f"{reason}" for reason in reasons)
        raise ModelError(f"Models of {entry.offer.title} cannot be run here ({why}).")
    return _open(entry)


def _open(entry: Entry) -> Architecture:
    if entry.offer not in _loaded:
        try:
            with undisturbed():
                found = entry.offer.load()
            if not isinstance(found, Architecture):
                raise TypeError(f"it gave a {type(found).__name__}, which is no Architecture")
        except (KeyboardInterrupt, ModelError):
            raise
        except BaseException as error:  # a plugin's, whatever it is
            raise ModelError(
                f"The family of models {entry.origin} cannot be opened ({one_line(error)}); update or uninstall "
                f"{entry.distribution}."
            ) from error
        _loaded[entry.offer] = found
    return _loaded[entry.offer]


def _read(file: Path) -> dict[str, Any]:
    # What is wrong with a file is said by the family's check.
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------------------------------------- a model's folder


def model_files(registry: Registry | None = None, *, without: Collection[str] = ()) -> list[str]:
    """Patterns of what is fetched of a model's repository.

    without: parts of which only the configuration is wanted.

    Many hold their weights twice, once as a single file beside diffusers' folders; only the folders are wanted.
    """
    folders = dict.fromkeys(name for each in architectures(registry) for name in each.folders)
    return [INDEX, "dit360.json", *(f"{name}/*.json" if name in without else f"{name}/*" for name in folders)]


def check_model(folder: Path, registry: Registry | None = None, *, without: Collection[str] = ()) -> None:
    """Raises ModelError unless a folder holds a whole model of a family that is known.

    without: parts whose weights are not wanted.
    """
    registry = registry or default_registry()
    _check_known(folder, registry)
    architecture_of(folder, registry).check_folder(folder, **({"without": without} if without else {}))


def _check_installed(folder: Path, registry: Registry) -> None:
    """Raises ModelError for a folder of a family that a distribution of this project brings, and is not here."""
    index, denoiser = _read(folder / INDEX), _read(folder / DENOISER / "config.json")
    made = index.get("_class_name", denoiser.get("_class_name"))
    if not isinstance(made, str) or _claiming(index, denoiser, registry) is not None:
        return
    extra = _extra_for(made, registry)
    off = extra_beginning("architecture", made, core=CORE) if extra is None else None
    if off is not None and off not in {entry.name for entry in registry.entries("architecture")}:
        raise ModelError(
            f"{folder} holds a {made}, whose family is installed here but switched off, or failed; "
            f"{remedy('see_backends')}."
        )
    if extra is not None:
        raise ModelError(
            f'{folder} holds a {made}, whose family is not installed; it comes with: pip install "{CORE}[{extra}]".'
        )


def _check_known(folder: Path, registry: Registry) -> None:
    """Raises ModelError unless a family that is here, and can be used, says that a folder is of it."""
    _check_installed(folder, registry)
    index, denoiser = _read(folder / INDEX), _read(folder / DENOISER / "config.json")
    entry = _claiming(index, denoiser, registry)
    if entry is not None:
        _architecture(entry, registry)
    elif isinstance(made := index.get("_class_name"), str):
        titles = ", ".join(dict.fromkeys(each.offer.title for each in _entries(registry)))
        raise ModelError(
            f"{folder} holds a {made}, which none of the families that are installed runs ({titles}); give a "
            "text-to-image model of one of them."
        )


def _extra_for(pipeline: str, registry: Registry) -> str | None:
    return extra_beginning("architecture", pipeline, core=CORE, here=registry.distributions())


def locate(base: str, registry: Registry | None = None, *, without: Collection[str] = ()) -> Path:
    """The folder of a model given as folder or Hub id, checked. Raises ModelError.

    without: parts whose weights are not wanted, since others take their place.
    """
    from dit360_core.models.weights.hub import explain_the_cache, fetch  # its client is slow to import

    folder = existing(base)
    if folder is None and looks_like_hub_id(base):
        # Whose it is is seen before gigabytes come that nothing here can use.
        _check_known(fetch(base, [INDEX, f"{DENOISER}/config.json"]), registry or default_registry())
        folder = fetch(base, model_files(registry, without=without))
        with explain_the_cache(base):
            check_model(folder, registry, without=without)
        return folder
    if folder is None:
        raise ModelError(f"There is no folder {base}; give a diffusers folder, a Hub id, or a known model name.")
    check_model(folder, registry, without=without)
    return folder


def shape_folder(model: Model, registry: Registry | None = None) -> Path:
    """A folder with the configurations of a model's parts: its own, what its offer brings, or fetched from the Hub."""
    if existing(model.base) is not None:
        return locate(model.base, registry)
    if model.shape is not None:
        return Path(model.shape)
    from dit360_core.models.weights.hub import fetch  # as above

    folder = fetch(model.base, ["*.json"])
    _check_known(folder, registry or default_registry())
    return folder
