"""Names of files that come from outside: from a list of pictures, or made of a prompt.

One rule for all systems, so that a list that was made on Linux works on Windows: what Windows reserves or forbids is in
"Naming Files, Paths, and Namespaces", https://learn.microsoft.com/windows/win32/fileio/naming-a-file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from dit360_core.errors import InputError

LONGEST_COMPONENT = 255
"""Bytes of UTF-8 (Linux), and UTF-16 units (Windows, macOS), of one part of a name."""
LONGEST_NAME = 1000
"""Bytes of UTF-8 of a whole name, folders in it included: macOS ends a path at 1024."""
LONGEST_SLUG = 100
"""Bytes of a name made of a prompt, so that a number and an ending fit behind it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)", re.IGNORECASE)
_DRIVE = re.compile(r"[a-zA-Z]:")
_FORBIDDEN = re.compile(r'[<>:"|?*]')
# Controls, what is not seen (direction marks and joiners among it), halves of pairs, and what ends a line.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_USUAL = "a name such as town/market.jpg"

# Letters that Unicode does not take apart.
_TAKEN_APART = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "þ": "th", "'": "", "’": ""}
)


def file_within(folder: Path, name: str, *, endings: Collection[str] = ()) -> Path:
    """Where the file lies that ``name``, which may come from anybody, names in a folder; nothing is made or opened.

    name: relative, its folders separated by "/"; it is given back in Unicode's composed form (NFC), in which macOS and
    Linux agree.
    endings: those that are allowed, such as ``.jpg``, in lower case; none: all.

    What comes back lies strictly inside the folder, symbolic links followed as they are now, and is none itself.

    Raises InputError, and nothing else, for every other name: one that leads elsewhere on any system, is reserved or
    forbidden on one, hidden, too long, or cannot be seen.
    """
    composed = unicodedata.normalize("NFC", name)
    for why in _faults(composed):
        raise InputError(f"{_shown(name)} cannot name a file: {why}.")
    ending = Path(composed).suffix
    if endings and ending.lower() not in endings:
        raise InputError(
            f"{_shown(name)} cannot name a file: its ending says no known format; end it in {', '.join(endings)}."
        )
    _check_links(folder, composed, _shown(name))
    return folder / composed


def slug_of(prompt: str, *, longest: int = 40) -> str:
    """A name, without ending, that tells what a prompt is about: ``"A café by the sea"`` → ``a-cafe-by-the-sea``.

    Words of ASCII letters and digits where most of the prompt can be written so, otherwise of its own script;
    ``panorama`` if it holds neither.

    longest: characters, at least 8; never more than LONGEST_SLUG bytes. It is cut between words where that is possible,
    and always a name that :func:`file_within` takes.
    """
    if longest < 8:
        raise InputError(f"A name of at most {longest} characters tells nothing; allow at least 8.")
    # Prompts have no length; what comes after these characters could not be in the name, but would cost time.
    text = unicodedata.normalize("NFKC", prompt[: 50 * longest].casefold().translate(_TAKEN_APART))
    plain = re.findall("[a-z0-9]+", unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode())
    if 2 * sum(map(len, plain)) < sum(character.isalnum() for character in text):
        plain = _words(text)
    slug = _cut(plain, longest)
    return slug if slug and not _RESERVED.fullmatch(slug) else f"panorama-{slug}"[:longest].rstrip("-")


def _faults(name: str) -> Iterator[str]:
    """Why a name is refused, and what to do."""
    if not name:
        yield f"it is empty; write {_USUAL}"
    if unseen := next((c for c in name if unicodedata.category(c) in _UNSEEN), None):
        yield f"it holds the character U+{ord(unseen):04X}, which cannot be seen; leave it out"
    if name.startswith(("//", "\\\\")):
        yield f"it names another machine; write {_USUAL}, which lies in the folder"
    if name.startswith(("/", "\\")):
        yield f"it begins at the root of a disk; write {_USUAL}, which lies in the folder"
    if _DRIVE.match(name):
        yield f"it names a drive of Windows; write {_USUAL}, which lies in the folder"
    if "\\" in name:
        yield "it holds a backslash, which only Windows takes for a separator; write / between folders"
    if forbidden := _FORBIDDEN.search(name):
        yield f"it holds {forbidden[0]}, which Windows forbids; leave it out"
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        yield f"it is longer than {LONGEST_NAME} bytes; shorten it"
    for part in name.split("/"):
        yield from _faults_of_part(part)


def _faults_of_part(part: str) -> Iterator[str]:
    # As a program shows or stores it that takes look-alikes for what they look like (a fullwidth dot or slash).
    alike = unicodedata.normalize("NFKC", part)
    if not part:
        yield "a part of it between two / is empty; leave one out"
        return
    if not alike.strip(". "):
        yield f"it holds {part!r}, which leads to another folder; write {_USUAL}, which lies in the folder"
    if "/" in alike or "\\" in alike:
        yield "it holds a character that looks like a separator; leave it out"
    if part.startswith("."):
        yield "a part of it begins with a dot, which hides it; leave the dot out"
    if part[:1].isspace() or part[-1:].isspace() or part.endswith("."):
        yield "a part of it begins or ends with a space, or ends with a dot, which Windows drops; leave it out"
    if _RESERVED.fullmatch(alike.partition(".")[0].strip()):
        yield f"Windows reserves {part!r} for a device; choose another name"
    if max(len(part.encode("utf-8", "replace")), len(part.encode("utf-16-le", "replace")) // 2) > LONGEST_COMPONENT:
        yield f"a part of it is longer than {LONGEST_COMPONENT} bytes; shorten it"


def _check_links(folder: Path, name: str, shown: str) -> None:
    """Raises InputError if something that is there already would lead the name out of the folder, or nowhere."""
    # By os.path rather than pathlib, which raises different errors for links that lead in a circle.
    root = os.path.realpath(folder)
    at = os.fspath(folder)
    for part in name.split("/")[:-1]:
        at = os.path.join(at, part)
        if not os.path.lexists(at):
            break
        if not os.path.isdir(at):
            raise InputError(f"{shown} cannot name a file: {at} is there and is no folder; choose another name.")
        # Not only of links: Windows has junctions, too.
        if not _inside(os.path.realpath(at), root):
            raise InputError(
                f"{shown} cannot name a file: {at} is a link that leads out of the folder; choose another name."
            )
    target = os.path.join(os.fspath(folder), name)
    try:
        there = os.path.islink(target)
        os.lstat(target)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} cannot name a file in {folder} ({why}); choose another name.") from error
    if there:
        raise InputError(f"{shown} cannot name a file: it is a link to another; remove it, or choose another name.")


def _inside(path: str, root: str) -> bool:
    try:
        return os.path.commonpath([path, root]) == root
    except ValueError:  # on another drive
        return False


def _shown(name: str) -> str:
    """For a sentence: escaped where it cannot be seen, and not longer than a line."""
    return repr(name if len(name) <= 60 else f"{name[:59]}…")


def _words(text: str) -> list[str]:
    """Runs of letters and digits of any script, with the marks that belong to them."""
    words = [""]
    for character in unicodedata.normalize("NFC", text):
        if character.isalnum() or (words[-1] and unicodedata.category(character).startswith("M")):
            words[-1] += character
        elif words[-1]:
            words.append("")
    return [word for word in words if word]


def _cut(words: list[str], longest: int) -> str:
    """As many words as fit, joined by "-"; of a first one that is too long, its beginning."""
    made = ""
    for word in words:
        longer = f"{made}-{word}" if made else word
        if not _fits(longer, longest):
            break
        made = longer
    if not made and words:
        made = words[0][:longest]
        while not _fits(made, longest):
            made = made[:-1]
    return made


def _fits(slug: str, longest: int) -> bool:
    return len(slug) <= longest and len(slug.encode()) <= LONGEST_SLUG


def looks_like_hub_id(name: str) -> bool:
    """Whether a text has the form ``owner/name`` and is no path."""
    owner, slash, rest = name.partition("/")
    plain = owner + rest
    return bool(slash and owner and rest) and not name.startswith((".", "~")) and "/" not in rest and "\\" not in plain


def existing(name: str) -> Path | None:
    """The file or folder that a user means by a text, with ``~`` expanded; None if there is no such thing."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a file's name; the home of nobody; a null character
        return None
