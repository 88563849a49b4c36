"""Into what a model is written that is to be kept: a folder, or one file. It imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from dit360_core.errors import InputError, setting
from dit360_core.models.weights.forms.opening import form_written
from dit360_core.options.aliases import near, ours
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import WrittenForm
from dit360_core.plugins.registry import Registry
from dit360_core.system.atomic import check_new_folder, check_writable

_FILES = "files"
"""Of a form of files nothing is said by another's name."""


def check_target(target: Path, mode: str, registry: Registry) -> Entry | None:
    """The form that writes a file of such a name; None: it is a folder.

    mode: as in ``quantization_mode``.

    target: folder or file, which must not exist.
    registry: of the forms of files.

    Raises InputError for a place where nothing can be written or something is already, and for a mode that this type of
    file does not support; ModelError for a type that is not written here.
    """
    entry = form_written(target, registry)
    if entry is None:
        check_new_folder(target)
    else:
        if os.path.lexists(target) and not os.path.isdir(target):  # there is no way to replace it
            raise InputError(f"Cannot write {target}: it exists already; choose another name, or delete it.")
        check_writable(target, force=False)
        written_form(mode, entry, target)
    return entry


def written_form(mode: str, entry: Entry, target: Path) -> WrittenForm | None:
    """The form that a mode means in a file; None: all in full. Raises InputError for one that it does not support.

    mode: as in ``quantization_mode``.
    target: the file.

    entry: the form of the file.
    """
    forms: dict[str, WrittenForm] = {form.name: form for form in entry.offer.writes}
    name = ours("quantization", mode, [*forms, "none"])
    if name == "none":
        return None
    if name not in forms:
        close = near(_FILES, mode, forms)
        raise InputError(
            f"A {target.suffix} file cannot be written with {setting('quantization_mode', mode)}; "
            f"{close or 'choose one of these'}: {', '.join([*forms, 'none'])}."
        )
    return forms[name]
