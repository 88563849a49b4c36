"""Six faces in files, or in one picture, and the panorama that they are."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from PIL import Image

from dit360_core.errors import InputError, named
from dit360_core.panorama.cubemaps import LAYOUTS, OTHER_NAMES, SHAPES, Layout, check_faces, layout_of, taken_apart
from dit360_core.panorama.formats import FORMATS
from dit360_core.panorama.gpano import MADE, Pose, read_pose
from dit360_core.panorama.opening import Opened, read_metadata, read_picture
from dit360_core.panorama.picture import TOLD, Panorama
from dit360_core.system.memory import explain_full_memory

FINER = 16
"""Columns of a panorama to one of its faces, at most; those that lose nothing are 3.2."""


@attrs.frozen(kw_only=True, eq=False)
class Faces:
    """Six faces as they were read.

    faces: by their names.
    form: faces, cross or strip.
    layout: of them.
    why: the layout is taken: "asked", "told by the files" or "by their names", or "as nothing says another".
    settings: that all of them have, without what tells of the export.
    exported: what all of them tell of their export, or nothing.
    files: their names.
    """

    faces: Mapping[str, Image.Image]
    form: str
    layout: Layout
    why: str
    settings: Mapping[str, object]
    exported: Mapping[str, Any]
    files: tuple[str, ...]

    @property
    def size(self) -> int:
        """The side of a face, in pixels."""
        return next(iter(self.faces.values())).width

    @property
    def width(self) -> int | None:
        """Columns of the panorama that they were exported from in the size that they have; None: nobody says."""
        origin = self.exported.get("from")
        told = origin.get("width") if isinstance(origin, dict) else None
        same = self.exported.get("width") == self.size * SHAPES.get(self.form, (1, 1))[0]
        if not same or not isinstance(told, int) or told < 1 or told % 2:
            return None
        # Anybody may have written that: it decides on no picture that is far finer than its faces.
        return told if told <= FINER * self.size else None

    @property
    def pose(self) -> Pose:
        """That of the panorama that they were exported from."""
        told = self.exported.get("gpano")
        if not isinstance(told, dict):
            return MADE
        pose, unused = read_pose({str(key): str(text) for key, text in told.items()})
        for sentence in unused:
            warnings.warn(f"{self.files[0]} tells of its panorama, but {sentence}.", stacklevel=2)
        return pose


def read_faces(paths: Sequence[Path], layout: str | None = None) -> Faces:
    """Reads a folder, six files, or one picture that is a cross or a strip.

    layout: as of :data:`dit360_core.panorama.cubemaps.LAYOUTS`; None: as the files tell, or their names.

    Raises InputError for files that are none, for a face that is missing, there twice, not square or of another size.
    """
    asked = None if layout is None else layout_of(layout)
    if len(paths) == 1 and os.path.isdir(paths[0]):  # which raises nothing, whatever the name is
        inside = sorted(path for path in _listed(paths[0]) if path.suffix.lower() in FORMATS and path.name[0] != ".")
        return _six(inside, asked, str(paths[0]))
    if len(paths) == 1:
        return _one(paths[0], asked)
    if len(paths) != 6:
        raise InputError(
            f"A cube map is one folder, six files, or one picture that is a cross or a strip, and here are "
            f"{len(paths)} files; give one of these."
        )
    return _six(paths, asked, "The six files")


def panorama_of(read: Faces, width: int | None = None) -> Panorama:
    """The panorama, which tells what it was made of.

    width: pixels; None: as wide as that which the faces were exported from, or as fine as they are in their middle.

    Raises InputError for a width that is none; OutOfMemory for one that is too large for the memory that is free.
    """
    origin = {"exported": dict(read.exported)} if read.exported else {}
    told = {"form": read.form, "layout": read.layout.name, "size": read.size, "files": list(read.files), **origin}
    settings = {**read.settings, "imported": told}
    with explain_full_memory("a panorama of six faces", "cpu"):
        made = Panorama.from_faces(read.faces, read.layout.name, read.width if width is None else width, settings)
    return attrs.evolve(made, pose=read.pose)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"Cannot open {folder}: {error.strerror or error}; choose another folder.") from error


def _one(path: Path, asked: Layout | None) -> Faces:
    opened = _opened(path)
    exported = _exported(opened.metadata.settings)
    layout, why = _chosen(asked, exported, path)
    try:
        form, faces = taken_apart(opened.image, layout)
    except InputError as error:
        raise InputError(f"Cannot import {path}: {error.sentence[0].lower()}{error.sentence[1:]}") from error
    return Faces(
        faces=faces, form=form, layout=layout, why=why, settings=_without(opened.metadata.settings), exported=exported,
        files=(path.name,),
    )  # fmt: skip


def _six(paths: Sequence[Path], asked: Layout | None, what: str) -> Faces:
    layout, why, matched = _arranged(paths, asked, what)
    missing = [name for name in layout.row if name not in matched]
    if missing:
        there = f"has {len(matched)} of the six faces of layout {layout.name}" if matched else "has no faces"
        raise InputError(
            f"{what} {there}, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; name the files "
            f"as the faces are called ({', '.join(layout.row)}), or say which {named('layout')} they have."
        )
    left_over = [path.name for path in paths if path not in matched.values()]
    if left_over:
        warnings.warn(f"{what}: {', '.join(left_over)} is none of the faces, and left out.", stacklevel=3)
    opened = {name: _opened(matched[name]) for name in layout.row}
    faces = {name: each.image for name, each in opened.items()}
    try:
        check_faces(faces, layout)
    except InputError as error:
        raise InputError(f"Cannot import {what}: {error.sentence[0].lower()}{error.sentence[1:]}") from error
    every = [(_without(each.metadata.settings), _exported(each.metadata.settings)) for each in opened.values()]
    settings, exported = every[0]
    if any(told != every[0] for told in every):
        warnings.warn(f"{what} tell of several pictures that they were made as, and none of it is kept.", stacklevel=3)
        settings, exported = {}, {}
    return Faces(
        faces=faces, form="faces", layout=layout, why=why, settings=settings, exported=exported,
        files=tuple(matched[name].name for name in layout.row),
    )  # fmt: skip


def _arranged(paths: Sequence[Path], asked: Layout | None, what: str) -> tuple[Layout, str, dict[str, Path]]:
    """(the layout, why it is taken, the file of each face that is there)."""
    told = _told_by(paths)
    if asked is None and len(set(told.values())) == 1:
        layout, why = LAYOUTS[next(iter(told.values()))], "told by the files"
    elif asked is None:
        if told:
            several = ", ".join(sorted(set(told.values())))
            warnings.warn(f"{what} tell of several layouts ({several}), and are read by their names.", stacklevel=4)
        layout = _by_names(paths)
        return layout, "by their names", _matched(paths, {name: (name,) for name in layout.faces})
    else:
        layout, why = asked, "asked"
        for path, other in told.items():
            if other != asked.name:
                warnings.warn(f"{path} says that its layout is {other}, and it is read as {asked.name}.", stacklevel=4)
                break
    return layout, why, _matched(paths, _words(layout))


def _told_by(paths: Sequence[Path]) -> dict[Path, str]:
    """The layouts that files tell which are faces of them by their names; what else lies there says nothing of them."""
    found = {}
    for path in paths:
        exported = _exported(read_metadata(path).settings)
        layout = exported.get("layout")
        if exported.get("to") not in (None, "faces") or not isinstance(layout, str) or layout not in LAYOUTS:
            continue
        if any(_is_called(path, called) for called in _words(LAYOUTS[layout]).values()):
            found[path] = layout
    return found


def _words(layout: Layout) -> dict[str, tuple[str, ...]]:
    """What each face may be called, in a layout that is known."""
    also = zip(layout.faces, LAYOUTS["plain"].faces, OTHER_NAMES, strict=True)
    # Unity's left is not everybody's, so what lies at +x is called left there and nowhere else.
    return {name: (name, name.removesuffix("Tex") if layout.name == "unity" else plain, *others)
            for name, plain, others in also}  # fmt: skip


def _opened(path: Path) -> Opened:
    opened = read_picture(path)
    for told in opened.told:
        warnings.warn(f"{path} {told}", stacklevel=4)
    if opened.floats is not None:
        warnings.warn(f"{path} has {opened.precision}, and a panorama of faces has 8 bits a channel.", stacklevel=4)
    if opened.alpha is not None:
        warnings.warn(f"{path} opens without its transparency, which a panorama has not.", stacklevel=4)
    return opened


def _exported(settings: Mapping[str, object]) -> Mapping[str, Any]:
    told = settings.get(TOLD)
    return {name: value for name, value in told.items() if name != "face"} if isinstance(told, dict) else {}


def _without(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != TOLD}


def _chosen(asked: Layout | None, exported: Mapping[str, Any], path: Path) -> tuple[Layout, str]:
    """(the layout, why it is taken)."""
    told = exported.get("layout")
    if asked is None:
        if isinstance(told, str) and told in LAYOUTS:
            return LAYOUTS[told], "told by the files"
        return LAYOUTS["plain"], "as nothing says another"
    if isinstance(told, str) and told != asked.name:
        warnings.warn(f"{path} says that its layout is {told}, and it is read as {asked.name}.", stacklevel=4)
    return asked, "asked"


def _by_names(paths: Sequence[Path]) -> Layout:
    """The layout, of whose faces most are there."""
    return max(LAYOUTS.values(), key=lambda layout: len(_matched(paths, {name: (name,) for name in layout.faces})))


def _matched(paths: Sequence[Path], words: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """Face → its file, whose name is the face's or ends in it: ``px.png``, ``sky_px.png``, not ``apx.png``.

    words: what each face may be called.

    Raises InputError if two files are one face.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for name, called in words.items():
            if not _is_called(path, called):
                continue
            if name in found:
                raise InputError(f"{found[name].name} and {path.name} are both the face {name}; leave one of them out.")
            found[name] = path
    return found


def _is_called(path: Path, words: tuple[str, ...]) -> bool:
    """Whether a file's name is one of these words, or ends in one after a mark."""
    return any(re.fullmatch(rf"(.*[\W_])?{re.escape(word)}", path.stem, re.IGNORECASE) for word in words)
