"""What a model that fills must be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit360_core.errors import InputError
from dit360_core.planning.checks import check_filled

if TYPE_CHECKING:
    from dit360_core.models.engine import Engine
    from dit360_core.options import LoadOptions
    from dit360_core.pipeline.request import Resolved
    from dit360_core.pipeline.stages import Shown


def check_shown(shown: Shown | None, engine: Engine, loading: LoadOptions, found: Resolved) -> None:
    """Raises InputError if a model that fills is shown nothing, or another size than ``found``; or if another model is
    shown anything."""
    check_filled(loading, fills=engine.facts.fills, given=shown is not None)
    if shown is None:
        return
    if not engine.facts.fills:
        raise InputError("shown is for models that fill a part of a picture, and this one does not; leave it out.")
    width, height = found.width, found.height
    for name, given, wanted in (
        ("picture", shown.masked.tensor, (1, engine.latent_channels, height // 8, width // 8)),
        ("mask", shown.mask, (1, 1, height, width)),
    ):
        if tuple(given.shape) != wanted:
            raise InputError(
                f"The {name} that is shown has the shape {tuple(given.shape)}, but {width}×{height} pixels need "
                f"{wanted}."
            )
        if not bool(given.isfinite().all()):
            raise InputError(f"The {name} that is shown holds numbers that are not finite.")
    if not bool(((shown.mask == 0) | (shown.mask == 1)).all()):
        raise InputError("The mask that is shown holds other numbers than 0 and 1, and models that fill know no other.")
