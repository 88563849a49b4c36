"""A model's own defaults keep to the ranges of the options that they stand in for."""

from __future__ import annotations

from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.plugins.offers import Model


def check_defaults(model: Model) -> None:
    """Raises InputError for defaults of a model that nobody could ask for: sizes, steps, guidance and so on."""
    try:
        SampleOptions(
            prompt="any",
            width=model.width,
            height=model.height,
            steps=model.steps,
            guidance=model.guidance,
            circular_padding=model.circular_padding,
            cube_consistency=model.cube_consistency,
            prompt_prefix=model.prompt_prefix,
        )
    except InputError as error:
        raise InputError(f"The model's own {lower_first(str(error)).removeprefix('the ')}") from error
    least, most = model.guidance_range
    if not 0 <= least <= most <= 100:
        raise InputError(f"The model's own guidance_range is {least} … {most}, but must lie in 0 … 100.")


def lower_first(sentence: str) -> str:
    """A sentence as it goes on after other words."""
    return sentence[:1].lower() + sentence[1:]
