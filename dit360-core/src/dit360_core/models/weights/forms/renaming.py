"""Which tensors of a single file are those of a part, whatever the file calls them and what else it holds.

Files have the names of diffusers, of the model's makers, or of ComfyUI, which puts the part before them. What a family
calls the layers that a LoRA changes is known to :meth:`Architecture.target`; a file of weights has the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from dit360_core.models.weights.forms.description import Described
from dit360_core.models.weights.headers import harmless, sources

if TYPE_CHECKING:
    from dit360_core.models.architecture import Architecture, Part

Shape = tuple[int, ...]
_LEAVES = {"weight": "weight", "bias": "bias", "scale": "weight"}
"""What names end with in files → here; some call the weight of a norm its scale."""


@attrs.frozen
class Rows:
    """Rows of a tensor of a file.

    source: its name.
    begin, end: rows; end None: all of it.
    """

    source: str
    begin: int = 0
    end: int | None = None


@attrs.frozen(kw_only=True)
class Recipe:
    """How a tensor is made of those of a file.

    rows: that lie below each other in it.
    shape: that it is then given; None: it stays as it is.
    """

    rows: tuple[Rows, ...]
    shape: Shape | None = None


@attrs.frozen(kw_only=True)
class Found:
    """What of a file is a part's.

    recipes: tensor of the part → how it is made.
    missing: tensors of the part that the file lacks.
    misshapen: tensor of the part → the shape that the file has for it.
    strange: tensors of the file, among the part's, that it has no place for.
    """

    recipes: Mapping[str, Recipe]
    missing: tuple[str, ...]
    misshapen: Mapping[str, Shape]
    strange: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False)
class Wanted:
    """What a part wants of files.

    shapes: tensor → shape.
    tied: tensor → the one that it is one with.
    as_read: the shape of a tensor of files → that which it has once the part has read it.
    names_read: names in a file → what those are called here that a library knows otherwise.
    """

    shapes: Mapping[str, Shape]
    tied: Mapping[str, str]
    as_read: Callable[[Shape], Shape]
    names_read: Callable[[Sequence[str]], Mapping[str, str]]


def prefix_of(part: Part, names: Iterable[str]) -> str:
    """What stands before the names of a part's tensors in a file: of those that there are, the longest."""
    there = list(names)
    return next(
        (each for each in sorted(part.containers, key=len, reverse=True) if any(n.startswith(each) for n in there)), ""
    )


def holds(part: Part, names: Collection[str]) -> bool:
    """Whether one of the names that tell a part is among those of a file's tensors."""
    prefix = prefix_of(part, names)
    return any(prefix + sign in names for sign in part.signs)


def own_names(architecture: Architecture, part: Part, names: Iterable[str]) -> dict[str, str]:
    """Name without what stands before those of a part → name in the file, of the tensors that may be the part's.

    architecture, part: whose.
    names: of all tensors of the file.
    """
    there = list(names)
    prefix = prefix_of(part, there)
    others = () if prefix else tuple(each for one in architecture.parts if one is not part for each in one.containers)
    return {name[len(prefix) :]: name for name in there if name.startswith(prefix) and not name.startswith(others)}


def part_in_file(architecture: Architecture, part: Part, wanted: Wanted, tensors: Mapping[str, Described]) -> Found:
    """How a part is made of a file."""
    inner = own_names(architecture, part, tensors)
    inner = {here: inner[there] for there, here in _here(wanted, list(inner)).items()}
    recipes: dict[str, Recipe] = {}
    misshapen: dict[str, Shape] = {}
    used: set[str] = set()

    def take(name: str, rows: tuple[Rows, ...], whole: Shape) -> None:
        used.update(row.source for row in rows)
        right, read = wanted.shapes[name], wanted.as_read(whole)
        if read == right:
            recipes[name] = Recipe(rows=rows)
        elif math.prod(whole) == math.prod(right) and _flat(whole, right):
            recipes[name] = Recipe(rows=rows, shape=right)
        else:
            misshapen[name] = whole

    renamed = sources(
        part.prefixes, wanted.shapes, inner, wanted.tied, lambda name: architecture.other_names(part.name, name)
    )
    for name in wanted.shapes:
        source = inner.get(renamed.get(name, name))
        if source is not None:
            take(name, (Rows(source),), tensors[source].shape)
    for short, source in inner.items():
        if source in used:
            continue
        for name, rows, shape in _by_layer(architecture, part, wanted, short, source, tensors[source].shape):
            if name not in recipes and name not in misshapen:
                take(name, rows, shape)
    aliases = {name: other for one, two in wanted.tied.items() for name, other in ((one, two), (two, one))}
    missing = tuple(
        name
        for name in wanted.shapes
        if name not in recipes and name not in misshapen and aliases.get(name) not in recipes
    )
    strange = tuple(
        source for short, source in inner.items() if source not in used and not harmless(part.harmless, short)
    )
    return Found(recipes=recipes, missing=missing, misshapen=misshapen, strange=strange)


def _here(wanted: Wanted, names: Sequence[str]) -> dict[str, str]:
    """Name in the file → name here, or the same."""
    known = wanted.names_read(names)
    return {name: known.get(name, name) for name in names}


def _flat(whole: Shape, right: Shape) -> bool:
    """Whether shapes of as many numbers are the same but for axes of one, or one of them is flat."""
    slim = [tuple(length for length in shape if length != 1) for shape in (whole, right)]
    return slim[0] == slim[1] or len(whole) == 1


def _by_layer(
    architecture: Architecture, part: Part, wanted: Wanted, short: str, source: str, shape: Shape
) -> list[tuple[str, tuple[Rows, ...], Shape]]:
    """Tensor of the part, rows and their shape, for a tensor of a layer that is called as in LoRAs."""
    layer, _, leaf = short.rpartition(".")
    if leaf not in _LEAVES or not shape:
        return []
    target = architecture.target(short if leaf == "scale" else layer)
    if target is None or target.part != part.name:
        return []
    names = [f"{module}.{_LEAVES[leaf]}" for module in target.modules]
    if not all(name in wanted.shapes for name in names):
        return []
    if target.halves_swapped:
        half = shape[0] // 2
        return [(names[0], (Rows(source, half, shape[0]), Rows(source, 0, half)), shape)]
    if len(names) == 1:
        return [(names[0], (Rows(source),), shape)]
    lengths = [wanted.shapes[name][0] for name in names]
    if sum(lengths) != shape[0]:
        # Told by the first of them, whose shape it should then have.
        return [(names[0], (Rows(source),), shape)]
    found: list[tuple[str, tuple[Rows, ...], Shape]] = []
    begin = 0
    for name, length in zip(names, lengths, strict=True):
        found.append((name, (Rows(source, begin, begin + length),), (length, *shape[1:])))
        begin += length
    return found
