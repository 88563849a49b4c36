"""Several pictures of one command: their names and their seeds."""

from __future__ import annotations

from pathlib import Path

import attrs

from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.options.sample import MAX_SEED


def names_of(output: Path, count: int) -> list[Path]:
    """The files of ``count`` pictures: ``sea.jpg``, or ``sea-1.jpg``, ``sea-2.jpg`` …

    Raises InputError if what is given is the name of no file.
    """
    check_is_named(output)
    if count == 1:
        return [output]
    digits = len(str(count))
    return [output.with_name(f"{output.stem}-{number:0{digits}}{output.suffix}") for number in range(1, count + 1)]


def check_is_named(output: Path) -> None:
    """Raises InputError for a path without a last part, such as ``/`` or none at all: nothing can stand beside it."""
    if not output.name:
        raise InputError(f"Cannot write {output}: it is the name of no file; name one, such as panorama.jpg.")


def counted(sampling: SampleOptions, number: int) -> SampleOptions:
    """The options of the picture of that number, from 0: its seed counts up, or is drawn."""
    if sampling.seed is None or not number:
        return sampling
    return attrs.evolve(sampling, seed=(sampling.seed + number) % (MAX_SEED + 1))
