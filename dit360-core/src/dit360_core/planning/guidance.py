"""What a picture's guidance comes to with a model: a number for the denoiser, a second evaluation, or neither."""

from __future__ import annotations

import attrs

from dit360_core.errors import InputError, named, remedy
from dit360_core.models.architecture import Facts, Guidance
from dit360_core.options import SampleOptions
from dit360_core.plugins.offers import Model


@attrs.frozen(kw_only=True)
class Guided:
    """Guidance of a picture.

    number: what ``guidance`` is; None where the model makes nothing of it.
    embedded: what the denoiser is given; None where it takes none.
    true: how far from the negative prompt, in the family's own measure.
    away: whether the denoiser is asked about the negative prompt, too.
    """

    number: float | None
    embedded: float | None
    true: float
    away: bool

    @property
    def beside(self) -> float:
        """True guidance beside ``guidance``; 1: there is none."""
        return self.true if self.away and self.number == self.embedded else 1.0


def guidance_of(asked: SampleOptions, model: Model, facts: Facts) -> Guided:
    """What guidance comes to.

    model: gives the default.
    facts: of the model.
    """
    own = model.guidance if asked.guidance is None else asked.guidance
    if facts.guidance is Guidance.TRUE:
        true = asked.true_guidance if asked.true_guidance > 1 else own
        return Guided(number=true, embedded=None, true=true, away=true > facts.off)
    embedded = own if facts.guidance is Guidance.EMBEDDED else None
    return Guided(number=embedded, embedded=embedded, true=asked.true_guidance, away=asked.true_guidance > 1)


def negative_prompt_of(asked: SampleOptions, model: Model, facts: Facts) -> str | None:
    """The negative prompt that is read; None where the denoiser is asked about none."""
    if not guidance_of(asked, model, facts).away:
        return None
    return facts.negative_prompt if asked.negative_prompt is None else asked.negative_prompt


def check_guidance(asked: SampleOptions, model: Model, facts: Facts) -> None:
    """Raises InputError for guidance, or a negative prompt, that a model makes nothing of."""
    if asked.guidance is not None and facts.guidance is Guidance.NONE:
        raise InputError(
            f"This model has no embedded guidance, so guidance does nothing; use {named('true_guidance')} instead, "
            f"or {remedy('leave_out')}."
        )
    if asked.guidance is not None and asked.true_guidance > 1 and facts.guidance is Guidance.TRUE:
        raise InputError(
            f"This model's {named('guidance')} and {named('true_guidance')} are the same thing; give one of them."
        )
    if asked.negative_prompt and not guidance_of(asked, model, facts).away:
        if facts.guidance is Guidance.TRUE:
            raise InputError(
                f"{named('negative_prompt')} has no effect while {named('guidance')} is "
                f"{guidance_of(asked, model, facts).true:g}; set it above {facts.off:g} or leave the negative prompt "
                "out."
            )
        raise InputError(
            f"{named('negative_prompt')} has no effect while {named('true_guidance')} is 1; set "
            f"{named('true_guidance')} above 1 (4 is usual) or leave the negative prompt out."
        )
