"""A model of single files alone: which it is, is told by its transformer, and its small files come with the program.

A folder is made of it, as for parts that take the place of a model's own (:mod:`dit360_core.models.composed`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError, named
from dit360_core.models.architecture import DENOISER, Architecture, FromShapes, Part
from dit360_core.models.composed import link, removed_on_failure, temporary_folder
from dit360_core.models.families import architecture_of, architectures
from dit360_core.models.settings import SETTINGS, settings_in, with_settings
from dit360_core.models.weights.files import ModelFiles
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.models.weights.forms.renaming import holds, own_names, part_in_file, prefix_of
from dit360_core.models.weights.schema import read_json
from dit360_core.options import LoadOptions
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry
from dit360_core.system.naming import existing

_OF_THE_SHAPE = (
    "width", "height", "circular_padding", "latent_rotation", "position_interpolation", "cube_consistency",
    "precision",
)  # fmt: skip
"""Of a named model, what goes for others of the same shape."""


@attrs.frozen(kw_only=True, eq=False)
class FromFiles:
    """A model of single files.

    asked: the options, with the file of each part that one file holds.
    model: as it is usually run.
    files: the folder with its small files, while this lives.
    family: whose it is.
    notes: what was taken for granted, in sentences.
    """

    asked: LoadOptions
    model: Model
    files: ModelFiles
    family: Architecture
    notes: tuple[str, ...]


def from_files(
    asked: LoadOptions,
    registry: Registry,
    *,
    whole: bool,
    beside: Callable[[str], Iterable[Path]] = lambda option: (),
) -> FromFiles | None:
    """The model that options name by single files; None: they name one by a folder, a name or an id.

    whole: with its tokenizers, which a plan does not need.
    beside: files in which a part may be that no option names, by the option.

    Raises ModelError for a file of something else, and for parts that are missing.
    """
    path = existing(asked.model)
    path = path if path is not None and path.is_file() else None
    alone = path is None
    if alone and asked.model == attrs.fields(LoadOptions).model.default and asked.transformer:
        path = existing(asked.transformer)
        path = path if path is not None and path.is_file() else None
    if path is None:
        return None
    file = open_file(path, registry=registry)
    family, part = _family(file, registry)
    told = family.from_shapes(_shapes(family, part, file), path.stem)
    if told is None:
        raise ModelError(f"{path} is of no {family.title} that can be run here; give another.")
    model, small = _small_files(family, told, registry, path)
    config = family.read_config(DENOISER, small / DENOISER)
    same = all(config.get(key) in (None, value) for key, value in told.transformer.items())
    if alone and same and model.name == asked.model:
        return None  # the file takes the place of that model's own
    asked = attrs.evolve(_with_parts(asked, family, file), model=str(path))
    own = Path(model.base) if _has_weights(family, Path(model.base)) else None
    taken: list[str] = []
    if own is None:
        asked, taken = _with_found(asked, family, small, beside)
    _check_whole(asked, family, path, own)
    made = ModelFiles(temporary_folder(), temporary=True)
    with removed_on_failure(made):
        _fill(family, made.folder, small, told, own)
        with _told_of(path, made.folder):
            family.check_configs(made.folder)
        if whole:
            _tokenizers(family, made.folder, small, model, path)
        given = Model(
            name="given", api=1, base=str(made.folder), **{name: getattr(model, name) for name in _OF_THE_SHAPE}
        )
        if same and own is not None and not settings_in(file)["model"]:
            usual = attrs.evolve(model, name="given", base=str(path), lora=None, shape=None)
        else:
            usual = attrs.evolve(_with_own_settings(given, made.folder, family, file), base=str(path))
    notes = (*told.notes, *taken)
    if own is None and not asked.lora and not settings_in(file)["loras"]:
        notes += (
            f"no LoRA for panoramas is given, without which most models paint flat pictures; {named('lora')} names one",
        )
    return FromFiles(asked=asked, model=usual, files=made, family=family, notes=notes)


def _with_own_settings(given: Model, folder: Path, family: Architecture, file: WeightsFile) -> Model:
    """A model as it is usually run, and as its file says, if that was written here."""
    settings = {key: told for key, told in settings_in(file).items() if key != "loras"}  # see planning.loras.in_files
    if not settings["model"]:
        return with_settings(given, folder, family)
    _write(folder / SETTINGS, settings)
    with _told_of(file.file, folder):
        return with_settings(given, folder, family)


def config_told(file: WeightsFile, family: Architecture, registry: Registry, name: str) -> Mapping[str, Any] | None:
    """The configuration of a transformer as it will be found by its file alone; None: no model here is like it.

    file: opened, of the family.
    registry: of the plugins, whose models are looked at.
    name: of the file, without its ending.
    """
    told = family.from_shapes(_shapes(family, family.part(DENOISER), file), name)
    if told is None:
        return None
    try:
        _, small = _small_files(family, told, registry, file.file)
    except ModelError:
        return None
    return {**family.read_config(DENOISER, small / DENOISER), **told.transformer}


def family_of(file: WeightsFile, registry: Registry) -> tuple[Architecture, Part] | None:
    """Whose transformer a file holds; None: nobody's that is known here."""
    for family in architectures(registry):
        part = family.part(DENOISER)
        if holds(part, file.tensors):
            return family, part
    return None


def _family(file: WeightsFile, registry: Registry) -> tuple[Architecture, Part]:
    found = family_of(file, registry)
    if found is not None:
        return found
    if any(".lora_" in name or "lora_up" in name or "lokr_" in name for name in file.tensors):
        raise ModelError(f"{file.file} is a LoRA and no model; give it with {named('lora')}.")
    for family in architectures(registry):
        for option, name in family.replaceable.items():
            part = family.part(name)
            if holds(part, file.tensors):
                raise ModelError(
                    f"{file.file} holds a {part.words} and no transformer; give it with {named(option)}, and the "
                    f"transformer with {named('model')}."
                )
    titles = ", ".join(family.title for family in architectures(registry))
    first = next(iter(sorted(file.tensors)), "no tensors")
    raise ModelError(
        f"{file.file} holds no transformer of a family that is installed ({titles}) but tensors such as {first}; give "
        "the file of one, or install its family."
    )


def _shapes(family: Architecture, part: Part, file: WeightsFile) -> dict[str, tuple[int, ...]]:
    return {short: file.tensors[name].shape for short, name in own_names(family, part, file.tensors).items()}


def _small_files(family: Architecture, told: FromShapes, registry: Registry, path: Path) -> tuple[Model, Path]:
    """The named model of the family that is most like it, and the folder of its configurations."""
    alike = []
    for model, folder in known_models(family, registry):
        config = family.read_config(DENOISER, folder / DENOISER)
        if all(config.get(key) == told.transformer.get(key) for key in family.text_keys if key in config):
            same = sum(config.get(key) == value for key, value in told.transformer.items())
            alike.append((same, model, folder))
    if not alike:
        raise ModelError(
            f"{path} is a {family.title} whose text encoder nobody here knows; give its folder or Hub id with "
            f"{named('model')}, and the file with {named('transformer')}."
        )
    _, model, folder = max(alike, key=lambda each: each[0])
    return model, folder


def known_models(family: Architecture, registry: Registry) -> Iterator[tuple[Model, Path]]:
    """The named models of a family whose configurations are here, and where."""
    for entry in registry.entries("model"):
        folder = existing(entry.offer.base) or (Path(entry.offer.shape) if entry.offer.shape else None)
        if folder is not None and not entry.refused and architecture_of(folder, registry) == family:
            yield entry.offer, folder


def _has_weights(family: Architecture, folder: Path) -> bool:
    return all(any((folder / part).glob("*.safetensors")) for part in family.names if part != DENOISER)


def _with_parts(asked: LoadOptions, family: Architecture, file: WeightsFile) -> LoadOptions:
    """The options with the parts that one file holds together, where no other was named for them."""
    found: dict[str, Any] = {}
    for option, name in family.replaceable.items():
        part = family.part(name)
        held = name == DENOISER or (prefix_of(part, file.tensors) and holds(part, file.tensors))
        if held and not getattr(asked, option):
            found[option] = str(file.file)
    return attrs.evolve(asked, **found)


def _with_found(
    asked: LoadOptions, family: Architecture, small: Path, beside: Callable[[str], Iterable[Path]]
) -> tuple[LoadOptions, list[str]]:
    """The options with parts that nobody named and that lie where such parts do, and what to say of that.

    Raises ModelError where several fit and none has the usual name.
    """
    from dit360_core.models.weights.stream import wanted_of  # imports torch, which only this needs

    found: dict[str, Any] = {}
    for option, name in family.replaceable.items():
        if getattr(asked, option):
            continue
        part, wanted, fits = family.part(name), None, []
        for path in beside(option):
            try:
                file = open_file(path)
                if not holds(part, file.tensors):
                    continue
                wanted = wanted or wanted_of(family.networks, name, small / name)
                told = part_in_file(family, part, wanted, file.tensors)
            except ModelError:
                continue  # one that is damaged is nobody's choice
            if not told.missing and not told.misshapen and not told.strange:
                fits.append(path)
        usual = [path for path in fits if path.name == part.usual_file]
        if len(usual or fits) > 1:
            some = ", ".join(path.name for path in fits[:3])
            raise ModelError(f"Several files fit as the {part.words} ({some}); name one with {named(option)}.")
        if usual or fits:
            found[option] = str((usual or fits)[0])
    return attrs.evolve(asked, **found), [
        f"the {family.part(family.replaceable[option]).words} is {path}, which lies there and fits"
        for option, path in found.items()
    ]


def _check_whole(asked: LoadOptions, family: Architecture, path: Path, own: Path | None) -> None:
    missing = {option: family.part(part) for option, part in family.replaceable.items() if not getattr(asked, option)}
    if own is not None or not missing:
        return
    words = _and(f"the {part.words}" for part in missing.values())
    give = _and(f"{named(option)} ({part.usual_file})" for option, part in missing.items())
    raise ModelError(f"{path} is a {family.title} without {words}; give {give}, too.")


@contextmanager
def _told_of(path: Path, made: Path) -> Iterator[None]:
    """What is wrong with a folder that was made of a file is told of the file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(
            f"{path} tells of a model that cannot be run: {error.sentence}".replace(f"{made}/", "the ")
        ) from error


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _fill(family: Architecture, made: Path, small: Path, told: FromShapes, own: Path | None) -> None:
    index = read_json(small / "model_index.json") if (small / "model_index.json").is_file() else {}
    index = {"_class_name": family.usual_pipeline, **index, **told.index}
    _write(made / "model_index.json", index)
    for part in family.folders:
        (made / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        if own is not None and part != DENOISER:
            for file in (own / part).iterdir():
                link(file, made / part / file.name)
        elif (small / part / name).is_file():
            _write(made / part / name, read_json(small / part / name))
    config = read_json(small / DENOISER / "config.json")
    _write(made / DENOISER / "config.json", {**config, **told.transformer})
    if told.scheduler:
        file = made / "scheduler" / "scheduler_config.json"
        config = read_json(file) if file.is_file() else {}
        file.unlink(missing_ok=True)
        _write(file, {**config, **told.scheduler})


def _write(file: Path, told: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def _tokenizers(family: Architecture, made: Path, small: Path, model: Model, path: Path) -> None:
    """A few megabytes, which a licence or their size keeps out of the program."""
    from dit360_core.models.weights.hub import fetch  # its client is slow to import

    wanted = [part for part in family.folders if part.startswith("tokenizer")]
    missing = [part for part in wanted if len(list((made / part).iterdir())) < 2]
    if not missing:
        return
    patterns = [f"{part}/*" for part in missing]
    try:
        found = fetch(model.base, patterns)
    except ModelError as error:
        include = " ".join(f'"{pattern}"' for pattern in patterns)
        raise ModelError(
            f"{path} needs the tokenizer of {model.base}, some megabytes ({error.sentence.rstrip('.')}); fetch it once "
            f"with: hf download {model.base} --include {include}"
        ) from error
    for part in missing:
        for file in (found / part).iterdir():
            shutil.copyfile(file, made / part / file.name)
