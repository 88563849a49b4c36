"""What stands in a part's folder in the place of weights: from which file they come, and how each is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError
from dit360_core.models.weights.forms.renaming import Recipe, Rows
from dit360_core.models.weights.schema import read_json

MANIFEST = "weights_from.json"
FORMAT = 1


@attrs.frozen(kw_only=True)
class Origin:
    """One tensor of a part.

    recipe: how it is made.
    form: of its numbers in the file.
    shape: that it has when it is made.
    bytes: that it takes in the file.
    """

    recipe: Recipe
    form: str
    shape: tuple[int, ...]
    bytes: int


@attrs.frozen(kw_only=True)
class Manifest:
    """Where a part's weights come from.

    file: the file.
    reader: address of the form that reads it.
    state: size and time of the last change of the file, in nanoseconds, when this was made.
    packed: forms in fewer bits that are kept as they are.
    tensors: name → its origin.
    """

    file: Path
    reader: str
    state: tuple[int, int]
    packed: tuple[str, ...]
    tensors: Mapping[str, Origin]

    def write(self, folder: Path) -> None:
        """Into the folder of the part."""
        told = {
            "format": FORMAT,
            "file": str(self.file),
            "reader": self.reader,
            "state": list(self.state),
            "packed": list(self.packed),
            "tensors": {
                name: {
                    "rows": [[row.source, row.begin, row.end] for row in origin.recipe.rows],
                    "as": None if origin.recipe.shape is None else list(origin.recipe.shape),
                    "form": origin.form,
                    "shape": list(origin.shape),
                    "bytes": origin.bytes,
                }
                for name, origin in self.tensors.items()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")


def state_of(file: Path) -> tuple[int, int]:
    """Size and time of the last change, in nanoseconds; zeros for a file that is not there."""
    try:
        told = file.stat()
    except OSError:
        return 0, 0
    return told.st_size, told.st_mtime_ns


def manifest_in(folder: Path) -> Manifest | None:
    """That of a part's folder; None: its weights are there. Raises ModelError for one that is damaged."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    told: dict[str, Any] = read_json(file)
    try:
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}")
        return Manifest(
            file=Path(told["file"]),
            reader=told["reader"],
            state=(int(told["state"][0]), int(told["state"][1])),
            packed=tuple(told["packed"]),
            tensors={name: _origin(about) for name, about in told["tensors"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{file} is damaged ({error}); load the model anew.") from error


def bytes_of_weights(folder: Path) -> int:
    """Of a model: in its folder, and in the single files that stand for some of its parts."""
    found = {file.resolve() for file in folder.rglob("*.safetensors")}
    for manifest in map(manifest_in, (file.parent for file in folder.rglob(MANIFEST))):
        if manifest is not None:
            found.add(manifest.file)
    return sum(state_of(file)[0] for file in found)  # of one that is gone by now, whoever reads it tells


def _origin(told: Mapping[str, Any]) -> Origin:
    return Origin(
        recipe=Recipe(
            rows=tuple(Rows(source, begin, end) for source, begin, end in told["rows"]),
            shape=None if told["as"] is None else tuple(told["as"]),
        ),
        form=told["form"],
        shape=tuple(told["shape"]),
        bytes=told["bytes"],
    )
