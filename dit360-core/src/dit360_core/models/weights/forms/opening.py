"""Which form reads a file of weights, and the file opened by it."""

from __future__ import annotations

from pathlib import Path

from dit360_core.errors import ModelError, one_line
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.headers import PICKLED, refuse_pickle
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import CORE, Entry, by_priority
from dit360_core.plugins.extras import extra_with
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine


def form_of(file: Path, registry: Registry | None = None) -> Entry:
    """The form that reads a file, by its name. Raises ModelError if none does, or it cannot be used here."""
    refuse_pickle(file)
    registry, suffix = registry or default_registry(), file.suffix.lower()
    # Nobody takes from the core what it reads itself.
    ordered = sorted(registry.entries("format"), key=lambda entry: (entry.distribution != CORE, by_priority(entry)))
    found = [entry for entry in ordered if suffix in entry.offer.suffixes]
    if not found:
        extra = extra_with("format", suffix.removeprefix("."), core=CORE, here=registry.distributions())
        if extra is not None:
            raise ModelError(f'{file} is read by a plugin that is not installed: pip install "{CORE}[{extra}]".')
        known = sorted({each for entry in registry.entries("format") for each in entry.offer.suffixes})
        raise ModelError(
            f"{file} is no safetensors file, and no other form of weights; give one of {', '.join(known)}."
        )
    usable = [entry for entry in found if not _reasons(entry)]
    if not usable:
        why = "; ".join(f"{reason}" for reason in _reasons(found[0]))
        raise ModelError(f"{file} cannot be read here ({why}).")
    return usable[0]


def form_written(target: Path, registry: Registry | None = None) -> Entry | None:
    """The form that writes a file of such a name; None: it is the name of a folder.

    target: file or folder.
    registry: of the forms of files; None: those that are installed.

    Raises ModelError for the name of a file that is not written, or not here.
    """
    registry, suffix = registry or default_registry(), target.suffix.lower()
    if target.name.lower() in {each for entry in registry.entries("format") for each in entry.offer.suffixes}:
        raise ModelError(f"{target} is an ending without a name; name the file, such as model{target.name}.")
    if suffix in PICKLED:
        raise ModelError(
            f"{target} would be a pickle, which can run code when it is opened; give the name of a .safetensors file, "
            "or of a folder."
        )
    if not looks_like_weights(target.name, registry):
        return None
    entry = form_of(target, registry)
    if entry.offer.writer is None:
        written = sorted(
            each for other in registry.entries("format") if other.offer.writer for each in other.offer.suffixes
        )
        raise ModelError(
            f"{target} cannot be written: {entry.origin} only reads {suffix}; give one of {', '.join(written)}, or the "
            "name of a folder."
        )
    return entry


def looks_like_weights(name: str, registry: Registry | None = None) -> bool:
    """Whether a name is that of a file of weights, in a form that is read here or could be."""
    suffix = Path(name).suffix.lower()
    known = {each for entry in (registry or default_registry()).entries("format") for each in entry.offer.suffixes}
    return suffix in {*known, *PICKLED} or extra_with("format", suffix.removeprefix("."), core=CORE) is not None


def open_file(file: Path, reader: str | None = None, registry: Registry | None = None) -> WeightsFile:
    """A file of weights, of which the header is read.

    reader: address of the form; None: that of its name.

    Raises ModelError for a file that is damaged, or that no form reads.
    """
    registry = registry or default_registry()
    every = registry.entries("format")
    entry = form_of(file, registry) if reader is None else next((e for e in every if e.address == reader), None)
    if entry is None:
        raise ModelError(f"{file} is read by {reader}, which is not installed any more; load the model anew.")
    try:
        return entry.offer.load()(file)  # type: ignore[no-any-return]
    except (KeyboardInterrupt, ModelError):
        raise
    except BaseException as error:  # a plugin's, whatever it is
        raise ModelError(
            f"{file} cannot be read by {entry.origin} ({one_line(error)}); download it again, or tell its author."
        ) from error


def _reasons(entry: Entry) -> tuple[object, ...]:
    # What is needed is looked up in metadata; no device decides.
    return entry.refused or judge(entry, Machine(), None)
