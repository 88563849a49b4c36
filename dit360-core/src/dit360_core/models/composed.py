"""A model with other parts than its own, from the files that somebody has already.

Everything that reads a model reads a folder of it. So one is made for the time being: links to what stays, and in the
place of a part what was given. Weights are neither read nor copied: for a single file a manifest says which of its
tensors are the part's, and how each is made of them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from dit360_core.errors import ModelError, named, remedy
from dit360_core.models.architecture import Architecture, Given, Part
from dit360_core.models.settings import SETTINGS
from dit360_core.models.weights.files import STORED, ModelFiles
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.forms.manifest import Manifest, Origin, state_of
from dit360_core.models.weights.forms.opening import form_of, looks_like_weights, open_file
from dit360_core.models.weights.forms.renaming import Found, holds, part_in_file
from dit360_core.models.weights.hub import SUBFOLDERS, explain_the_cache, fetch
from dit360_core.models.weights.schema import read_json
from dit360_core.options import REPLACING, LoadOptions
from dit360_core.system.naming import existing, looks_like_hub_id

_SMALL = 64 * 2**20
"""Bytes. A file up to this is copied where no link can be made."""


# -------------------------------------------------------------------------------------- what was given, without torch


def find(architecture: Architecture, asked: LoadOptions) -> tuple[Given, ...]:
    """The parts that options name, as far as they are on this machine looked at: names, types and header of the files.

    architecture: the model's family.

    Raises ModelError for what is not there, can run code, is damaged, or cannot be such a part of the family.
    """
    for option in REPLACING:
        if getattr(asked, option) and option not in architecture.replaceable:
            taken = " and ".join(map(named, architecture.replaceable)) or "none"
            raise ModelError(
                f"{named(option)} names a part that {architecture.title} does not have (it takes {taken}); "
                f"{remedy('leave_out')}."
            )
    return tuple(
        _find(architecture, option, name) for option in architecture.replaceable if (name := getattr(asked, option))
    )


def _find(architecture: Architecture, option: str, name: str) -> Given:
    path, part = existing(name), architecture.part(architecture.replaceable[option])
    given = Given(option=option, name=name, part=part, path=path)
    if path is None:
        # "vae/ae.safetensors" has the form of a Hub id and is none.
        if looks_like_hub_id(name) and not looks_like_weights(name):
            return given
        raise ModelError(
            f"There is no {part.words} {name}; give a diffusers folder, a file of weights, or a Hub id (owner/name)."
        )
    if path.is_file():
        check_is_of(architecture, part, open_file(path))
        return given
    return attrs.evolve(given, path=_folder_of(architecture, given, path, weights=True))


def check_is_of(architecture: Architecture, part: Part, file: WeightsFile) -> None:
    """Raises ModelError unless the names in a file are such a part's.

    architecture: the family.
    """
    if holds(part, file.tensors):
        return
    first = next(iter(sorted(file.tensors)), None)
    there = "no tensors" if first is None else f"tensors of another model, such as {first}"
    usual = f"one such as {part.usual_file}" if part.usual_file else "another"
    raise ModelError(f"{file.file} holds no {part.words} of {architecture.title} but {there}; give {usual}.")


def _folder_of(architecture: Architecture, given: Given, folder: Path, *, weights: bool) -> Path:
    """The folder of the part in what may be a whole model's.

    weights: they must be there too.
    """
    if (folder / given.part.name).is_dir():
        folder = folder / given.part.name
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no {given.part.words} as diffusers writes it: it has no config.json; give a folder that "
            "save_pretrained wrote, or a single file of weights."
        )
    architecture.check_part(given.part.name, folder, weights=weights)
    return folder


# ----------------------------------------------------------------------------------------------------- into one folder


def compose(architecture: Architecture, folder: Path, given: Sequence[Given], *, weights: bool = True) -> ModelFiles:
    """The model in ``folder`` with the parts that were given in the place of its own; itself if there are none.

    architecture: the model's family.
    weights: False if only configurations will be looked at: of the Hub nothing else is fetched.

    Raises ModelError: a part is on no Hub, does not belong to this model, or cannot be linked here.
    """
    if not given:
        return ModelFiles(folder)
    given = [_fetched(architecture, one, weights=weights) for one in given]
    architecture.check_replaced(given, folder)
    notes = list(architecture.notes_on_replaced(given, folder))
    made = ModelFiles(temporary_folder(), temporary=True, notes=notes)
    with removed_on_failure(made):
        _fill(architecture, made.folder, folder, {one.part.name: one for one in given})
    return made


@contextmanager
def removed_on_failure(made: ModelFiles) -> Iterator[None]:
    """Removes the folder of a model if it cannot be filled. Raises ModelError where it cannot be written."""
    try:
        yield
    except OSError as error:
        made.remove()
        raise ModelError(
            f"The folder {made.folder} cannot be written ({error.strerror or error}); see that there is space, or name "
            "another place with TMPDIR."
        ) from error
    except BaseException:
        made.remove()
        raise


def temporary_folder() -> Path:
    """A new folder for a model that is put together. Raises ModelError."""
    try:
        return Path(tempfile.mkdtemp(prefix="dit360-model-"))
    except OSError as error:
        raise ModelError(
            f"No temporary folder can be made ({error.strerror or error}); name a place with TMPDIR."
        ) from error


def _fetched(architecture: Architecture, one: Given, *, weights: bool) -> Given:
    if one.path is not None:
        return one
    # A model's repository holds single files of all its weights beside the folders of its parts; these are not wanted.
    part = one.part.name
    found = fetch(one.name, ["config.json", f"{part}/*" if weights else f"{part}/config.json"])
    if weights and not (found / part).is_dir():
        found = fetch(one.name, ["config.json", "*.safetensors", "*.safetensors.index.json"], ignore=SUBFOLDERS)
    with explain_the_cache(one.name):
        return attrs.evolve(one, path=_folder_of(architecture, one, found, weights=weights))


def _fill(architecture: Architecture, made: Path, folder: Path, given: Mapping[str, Given]) -> None:
    for name in ("model_index.json", SETTINGS):
        if (folder / name).is_file():
            link(folder / name, made / name)
    for part in architecture.folders:
        (made / part).mkdir()
        one = given.get(part)
        source = folder / part if one is None or one.path is None else one.path
        if source.is_file():
            assert one is not None
            # The file says nothing of the layers; that the model's own weights may be quantized is not its business.
            config = read_json(folder / part / "config.json")
            config.pop("quantization_config", None)
            (made / part / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
            write_manifest(architecture, one.part, open_file(source), made / part)
            continue
        for file in sorted(source.iterdir() if source.is_dir() else ()):
            if file.is_file():
                link(file, made / part / file.name)
        if one is not None and not _quantized(source) and any(source.glob("*.safetensors")):
            from dit360_core.models.weights.stream import check_part  # imports torch

            check_part(architecture.networks, part, made / part, source)


def _quantized(folder: Path) -> bool:
    return (folder / STORED).is_file() or "quantization_config" in read_json(folder / "config.json")


def write_manifest(architecture: Architecture, part: Part, file: WeightsFile, folder: Path) -> None:
    """Says in the folder of a part, which has its configuration already, how it is made of a single file.

    architecture: the family.

    Raises ModelError if the file lacks some of it, or holds what it has no place for.
    """
    from dit360_core.models.weights.stream import wanted_of  # imports torch

    wanted = wanted_of(architecture.networks, part.name, folder)
    found = part_in_file(architecture, part, wanted, file.tensors)
    _check(architecture, part, file, found, wanted.shapes)
    origins = {}
    for name, recipe in found.recipes.items():
        first = file.tensors[recipe.rows[0].source]
        shape = recipe.shape or (
            first.shape
            if recipe.rows[0].end is None
            else (sum((row.end or 0) - row.begin for row in recipe.rows), *first.shape[1:])
        )
        origins[name] = Origin(recipe=recipe, form=first.form, shape=shape, bytes=_bytes(file, found, name))
    packed = {about.form for about in file.tensors.values() if about.packed}
    Manifest(
        file=Path(os.path.abspath(file.file)),
        reader=form_of(file.file).address,
        state=state_of(file.file),
        packed=tuple(sorted(packed)) if part.option else (),
        tensors=origins,
    ).write(folder)


def _bytes(file: WeightsFile, found: Found, name: str) -> int:
    """Bytes in the file of one tensor of a part."""
    total = 0
    for row in found.recipes[name].rows:
        about = file.tensors[row.source]
        share = 1.0 if row.end is None else (row.end - row.begin) / max(1, about.shape[0])
        total += round(share * about.bytes)
    return total


def _check(
    architecture: Architecture, part: Part, file: WeightsFile, found: Found, wanted: Mapping[str, tuple[int, ...]]
) -> None:
    what = f"so it is no {part.words} for this model; give another, or {remedy('leave_out')}"
    for name, shape in found.misshapen.items():
        raise ModelError(f"{file.file} has the shape {list(shape)} instead of {list(wanted[name])} for {name}, {what}.")
    if found.missing:
        raise ModelError(f"{file.file} lacks {found.missing[0]}, {what}.")
    if found.strange:
        raise ModelError(
            f"{file.file} holds {len(found.strange)} tensors that this model's {part.words} has no place for, such as "
            f"{found.strange[0]!r}, so it is of another kind; give another."
        )
    used = {row.source for recipe in found.recipes.values() for row in recipe.rows}
    odd = sorted(name for name in used if not file.tensors[name].known)
    if odd:
        raise ModelError(
            f"{file.file} holds {len(odd)} tensors of {file.tensors[odd[0]].form} ({odd[0]}), which mean nothing "
            "without their scales and which dit360 does not read; give a file in fp16, bf16 or fp8."
        )


def link(file: Path, target: Path) -> None:
    """The file under another name, without a copy where that can be had."""
    file = file.resolve()  # a link may be relative to its folder
    for make in (os.symlink, os.link):  # Windows lets not everybody make the first; the second ends at a drive
        try:
            make(file, target)
        except (OSError, NotImplementedError):
            continue
        return
    if file.stat().st_size > _SMALL:
        raise ModelError(
            f"{file} cannot be linked into {target.parent}: switch on Windows' developer mode, or name a folder on the "
            "same drive with TMPDIR."
        )
    shutil.copyfile(file, target)
