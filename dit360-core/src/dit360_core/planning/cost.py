"""How often a picture asks the denoiser, before it does and while it does."""

from __future__ import annotations

from dit360_core.options import SampleOptions
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.figures import claimed_evaluations


def calls_of_a_question(asked: SampleOptions, prompts: int = 1, *, away: bool) -> int:
    """Evaluations of the denoiser each time that a solver asks.

    prompts: that the picture follows.
    away: whether the negative prompt is asked about, too.
    """
    return (prompts + away) * (2 if asked.yaw_consistency > 0 else 1)


def evaluations(asked: SampleOptions, steps: int, scheduler: Entry | None, prompts: int = 1, *, away: bool) -> int:
    """Evaluations of the denoiser for a picture.

    steps: of the solver; none of them is made where ``denoise`` is 0.
    scheduler: whose own word counts; None: one question a step.
    prompts: that the picture follows.
    away: whether the negative prompt is asked about, too.

    Raises Dit360Error if the scheduler's word is no number.
    """
    if asked.denoise == 0:
        return 0
    questions = steps if scheduler is None else claimed_evaluations(scheduler, steps)
    return questions * calls_of_a_question(asked, prompts, away=away)
