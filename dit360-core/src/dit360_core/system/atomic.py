"""Files and folders that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import IO

from dit360_core.errors import Dit360Error, InputError, named

PART = ".dit360-{}.part"
"""The name of a file while it is being written; what a killed process leaves of it is found by that."""


class NameTaken(InputError):
    """A file of that name is there already; perhaps only since the writing began."""


@contextmanager
def write_atomic(path: Path, *, force: bool = False, beside: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name only when the block has ended without an exception.

    The bytes go to a hidden file in the same folder, are flushed to the disk, and take the name in one step.
    On any exception, KeyboardInterrupt among them, the hidden file is removed and what was at ``path`` stays
    as it was. Symbolic links are followed. ``force`` allows to replace an existing file; without it, of several
    programs that write one name at once the first one gets it; ``beside``: the others get the first free name like it,
    and Dit360Error says so.

    Raises NameTaken if the file exists and ``force`` is not given, InputError if its folder does not exist or cannot
    be written to, or if it is a device; Dit360Error if writing fails later, as on a full disk.
    """
    check_writable(path, force=force)
    target = Path(os.path.realpath(path))  # resolve() raises of links that lead in a circle
    # Not derived from the file's name, which may already have the greatest length that the file system
    # allows.
    part = target.parent / PART.format(secrets.token_hex(8))
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
        if force:
            os.replace(part, target)
        elif beside:
            _give_name_or_one_like_it(part, target, path)
        else:
            _give_name(part, target)
    except FileExistsError as error:
        part.unlink(missing_ok=True)
        raise _taken(path) from error
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Dit360Error(
            f"Cannot write {path}: {error.strerror or error}; see that there is space, or choose another place."
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        # Again, should that have been interrupted: impatient people press Ctrl-C twice.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _give_name(part: Path, target: Path) -> None:
    """Raises FileExistsError, and replaces nothing, if the name has been taken since it was looked at."""
    if os.name == "nt":
        part.rename(target)  # which refuses to replace there
        return
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as FAT
        target.open("xb").close()
        try:
            os.replace(part, target)
        except BaseException:
            target.unlink()  # nothing is in it
            raise
        return
    part.unlink()


def _give_name_or_one_like_it(part: Path, target: Path, path: Path) -> None:
    """Raises Dit360Error, once the file has another name, if its own has been taken since it was looked at."""
    try:
        _give_name(part, target)
    except FileExistsError as error:
        for name in names_beside(target, target.suffix):
            with contextlib.suppress(FileExistsError):
                _give_name(part, name)
                break
        raise Dit360Error(
            f"Cannot write {path}: another program has made it meanwhile; this one is not lost, it is "
            f"{path.with_name(name.name)}."
        ) from error


def _taken(path: Path) -> NameTaken:
    return NameTaken(
        f"Cannot write {path}: the file exists already; choose another name or overwrite it ({named('force')})."
    )


def names_beside(path: Path, suffix: str) -> Iterator[Path]:
    """Names for what finds its own taken: ``name-2``, ``name-3`` …, before its ``suffix``."""
    stem = path.name.removesuffix(suffix)
    return (path.with_name(f"{stem}-{number}{suffix}") for number in count(2))


def write_whole(data: bytes, path: Path, *, force: bool = False) -> None:
    """Writes a file. Raises what :func:`write_atomic` raises.

    force: replace what is there.
    """
    with write_atomic(path, force=force) as file:
        file.write(data)


def not_lost(error: Dit360Error, kept: Path) -> Dit360Error:
    """The error of a picture that could not be saved, with where it is instead.

    kept: as :func:`saved_elsewhere` gives it.
    """
    return Dit360Error(f"{error.sentence.rstrip('.')}; the picture is not lost, it is {kept}.")


def saved_elsewhere(path: Path, save: Callable[[Path], object], *, beside: bool = True) -> Path | None:
    """Saves what took long to make and could not be saved as ``path``; returns where it now is, None: nowhere.

    save: writes a file of the name that it is given. Raises NameTaken if that is taken, else Dit360Error.
    beside: whether its folder is looked at again.

    That is beside it, under the first free name (``name-2.jpg``), if another program took the name; otherwise, or if
    that does not work either, a new folder among the temporary files.
    """
    with contextlib.suppress(Dit360Error):
        for name in islice(names_beside(path, path.suffix), 98 if beside else 0):
            with contextlib.suppress(NameTaken):
                save(name)
                return name
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="dit360-"))
        name = folder / f"panorama{path.suffix}"
        try:
            save(name)
            return name
        except Dit360Error:
            folder.rmdir()
    return None


def check_name(path: Path) -> None:
    """Raises InputError for what no file or folder can be called here: too long, or with characters that are none."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # told of more exactly by whoever asks
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no file can be called so"
        shown = str(path) if str(path).isprintable() else repr(str(path))
        raise InputError(f"Cannot write {shown}: {why}; choose another name.") from error


def check_writable(path: Path, *, force: bool) -> None:
    """Raises InputError where write_atomic would refuse ``path``: for telling it before a long computation."""
    check_name(path)
    # os.path rather than pathlib, which raises of what may not be looked at.
    if os.path.isdir(path):
        raise InputError(f"Cannot write {path}: it is a folder; add the name of a file.")
    # Through a link, the bytes go into another folder than the name.
    link = os.path.islink(path)
    folder = Path(os.path.realpath(path)).parent if link else path.parent
    if not os.path.isdir(folder):
        through = "it is a link, and " if link else ""
        raise InputError(
            f"Cannot write {path}: {through}the folder {folder} does not exist; create it or choose another."
        )
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write {path}: no permission to write in {folder}; choose another folder.")
    if os.path.lexists(path) and not force:
        raise _taken(path)
    # Through a link, an administrator could else replace /dev/null for everybody.
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"Cannot write {path}: it is a device or a pipe, and no file; choose another name.")


def check_new_folder(target: Path) -> None:
    """Raises InputError unless a folder of this name can be made, or is there and empty."""
    check_name(target)
    # os.path rather than pathlib, which raises of a name that no file can have and of what may not be looked at.
    if os.path.islink(target) or os.path.realpath(target) == os.path.realpath("."):
        raise InputError(f"Cannot write {target}: it is the working folder or a link; give the name of a new folder.")
    if os.path.lexists(target) and not _is_empty_folder(target):
        raise InputError(f"Cannot write {target}: it exists already; choose another name, or delete it.")
    if not os.path.isdir(target.absolute().parent):
        raise InputError(f"Cannot write {target}: its folder does not exist; create it or choose another.")
    if not os.access(target.absolute().parent, os.W_OK):
        raise InputError(f"Cannot write {target}: no permission to write there; choose another folder.")


def _is_empty_folder(target: Path) -> bool:
    try:
        return not os.listdir(target)
    except OSError:  # no folder, or one that may not be looked into
        return False


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its name when the block ends well, and goes if it does not.

    If another program has made something of that name meanwhile, it takes the first free one like it (``name-2``), and
    Dit360Error says so.
    """
    part = target.absolute().parent / PART.format(secrets.token_hex(8))
    try:
        part.mkdir()
        yield part
        try:
            _give_folder_its_name(part, target)
        except NameTaken as error:
            beside = next(name for name in names_beside(target, "") if not os.path.lexists(name))
            part.rename(beside)
            raise Dit360Error(f"{error.sentence.rstrip('.')}; this one is not lost, it is {beside}.") from error
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise Dit360Error(
            f"Cannot write {target}: {error.strerror or error}; see that there is space, or choose another place."
        ) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)  # again, should that have been interrupted


def _give_folder_its_name(part: Path, target: Path) -> None:
    """Raises NameTaken, and replaces nothing but an empty folder, if the name has been taken since it was looked at."""
    try:
        if os.path.isdir(target):
            target.rmdir()
        part.rename(target)
    except OSError as error:
        if not os.path.lexists(target):
            raise
        raise NameTaken(f"Cannot write {target}: another program has made it meanwhile.") from error
