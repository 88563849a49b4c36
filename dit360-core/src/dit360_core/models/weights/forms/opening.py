"""Which form reads a file of weights, and the file opened by it."""

from __future__ import annotations

from pathlib import Path

from dit360_core.errors import ModelError
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.forms.safetensors_file import SafetensorsFile
from dit360_core.models.weights.headers import refuse_pickle

SAFETENSORS = "dit360-core:safetensors"
_SAFE = (".safetensors", ".sft")


def reader_of(file: Path) -> str:
    """The address of the form that reads a file, by its name. Raises ModelError if none does."""
    refuse_pickle(file)
    if file.suffix.lower() in _SAFE:
        return SAFETENSORS
    raise ModelError(f"{file} is no safetensors file; give one that ends with .safetensors.")


def open_file(file: Path, reader: str | None = None) -> WeightsFile:
    """A file of weights, of which the header is read.

    reader: address of the form; None: that of its name.

    Raises ModelError for a file that is damaged, or that no form reads.
    """
    known = reader or reader_of(file)
    if known == SAFETENSORS:
        return SafetensorsFile(file)
    raise ModelError(f"{file} is read by {known}, which is not installed.")
