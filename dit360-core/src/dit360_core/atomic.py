"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dit360_core.errors import Dit360Error, InputError


@contextmanager
def write_atomic(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name only when the block has ended without an exception.

    The bytes go to a hidden file in the same folder, are flushed to the disk, and take the name in one step.
    On any exception, KeyboardInterrupt among them, the hidden file is removed and what was at ``path`` stays
    as it was. Symbolic links are followed. ``force`` allows to replace an existing file.

    Raises InputError if the file exists and ``force`` is not given, if its folder does not exist or cannot be
    written to; Dit360Error if writing fails later, as on a full disk.
    """
    check_writable(path, force=force)
    target = path.resolve()
    # Not derived from the file's name, which may already have the greatest length that the file system
    # allows.
    part = target.parent / f".dit360-{secrets.token_hex(8)}.part"
    try:
        try:
            file = part.open("xb")
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror} in the folder {target.parent}; choose another folder."
            ) from error
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Dit360Error(
            f"Cannot write {path}: {error.strerror or error}; see that there is space, or choose another place."
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: Path, *, force: bool) -> None:
    """Raises InputError where write_atomic would refuse ``path``: for telling it before a long computation."""
    # os.path rather than pathlib: a name that no file can have (too long, say) must not raise here already.
    if os.path.isdir(path):
        raise InputError(f"Cannot write {path}: it is a folder; add the name of a file.")
    if not os.path.isdir(path.parent):
        raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist; create it or choose another.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"Cannot write {path}: no permission to write in {path.parent}; choose another folder.")
    if os.path.lexists(path) and not force:
        raise InputError(f"Cannot write {path}: the file exists already; choose another name or overwrite it (force).")
