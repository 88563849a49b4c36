"""Sizes that a panorama can have."""

from __future__ import annotations

from dit360_core.errors import InputError

SIZE_STEP = 16
"""Pixels: the autoencoder's 8 times the transformer's 2×2 patches."""


def check_size(width: int | None, height: int | None) -> None:
    """Looks whether a panorama of this size can be made.

    width, height: pixels; None for what follows from the other, or for both if nothing is asked.

    Raises InputError unless the size is 2:1 in multiples of 16, naming a size near it that is.
    """
    if width is None and height is None:
        return
    wide = width if width is not None else 2 * (height or 0)
    high = height if height is not None else wide // 2
    if wide != 2 * high or high % SIZE_STEP:
        near = max(SIZE_STEP, round(wide / 2 / SIZE_STEP) * SIZE_STEP)
        asked = f"{wide}×{high}" if height is not None else f"width {wide}"
        raise InputError(
            f"The size {asked} cannot be made: a panorama is twice as wide as high and both are multiples of "
            f"{SIZE_STEP}; take {2 * near}×{near}."
        )
