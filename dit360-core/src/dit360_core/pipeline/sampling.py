"""From noise to latents: the denoiser as a solver sees it, link by link, and the steps of a run.

A solver asks a :class:`~dit360_core.plugins.offers.FlowModel`, ``model(x, sigma) -> velocity``. What a picture wishes
for is a chain of such models, each of which asks the one that it was made of. In the order in which a question passes::

    Expecting       keeps the picture as it is expected, for previews
    Recorded        answers of a run that was stopped are read, and new ones kept
    Held            a part of a picture stays as it is
    SmoothPoles     rows near the poles as smooth as their circles are small
    Reconciled      two views of the panorama agree          (two of each of those below)
    Beside          what a model that fills is shown is put beside
    Turned          the panorama is seen turned
    Away            away from the negative prompt            (one of those below for either)
    Mean            several prompts                          (one of those below for each)
    Counted, Retried, OfPrompt      one evaluation of the denoiser, counted, again if memory ran out

All x and velocities are ``(1, tokens, channels)``, real columns only; x has more channels inside of Beside. A further
link, such as a cache, is one more class here and one more line in :func:`chain`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import torch

from dit360_core.errors import Dit360Error
from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Engine, Velocity
from dit360_core.pipeline.holding import Held, Hold
from dit360_core.pipeline.journal import Journal, Recorded
from dit360_core.pipeline.stages import Conditioning
from dit360_core.planning.guidance import Guided
from dit360_core.plugins.offers import FlowModel, SchedulerImplementation
from dit360_core.sphere.grid import Grid, rotation
from dit360_core.sphere.poles import on_sphere

UNGUIDED = Guided(number=None, embedded=None, true=1.0, away=False)
Attempt = Callable[[Callable[[], torch.Tensor]], torch.Tensor]
"""Runs one evaluation, again if memory ran out and something could be done about it."""


@attrs.frozen(kw_only=True)
class Wishes:
    """How the denoiser is asked.

    rotating: the panorama is turned by another angle each time.
    guided: what the picture's guidance comes to.
    yaw_consistency, cube_consistency: as in :class:`~dit360_core.options.SampleOptions`.
    """

    guided: Guided = UNGUIDED
    rotating: bool = False
    yaw_consistency: float = 0.0
    cube_consistency: float = 0.0


# ------------------------------------------------------------------------------------------------- one evaluation


@attrs.frozen(eq=False)
class OfPrompt:
    """The denoiser about one prompt.

    branch: a name for diffusers' caches, which compare a call with the one before.
    """

    velocity: Velocity
    embedding: Embedding
    branch: str

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.velocity(x, sigma, self.embedding, self.branch)


@attrs.frozen(eq=False)
class Retried:
    """Again, if memory ran out."""

    model: FlowModel
    attempt: Attempt

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        # Not a lambda: what it closes over stays with an exception whatever is cleared.
        return self.attempt(partial(self.model, x, sigma))


@attrs.define(eq=False)
class Count:
    """Of evaluations."""

    calls: int = 0


@attrs.frozen(eq=False)
class Counted:
    """Each question adds one to ``count``."""

    model: FlowModel
    count: Count

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.count.calls += 1
        return self.model(x, sigma)


# ----------------------------------------------------------------------------------------------------- the prompts


@attrs.frozen(eq=False)
class Mean:
    """What several models say, in the mean."""

    models: Sequence[FlowModel]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        v = self.models[0](x, sigma)
        for i, other in enumerate(self.models[1:], start=2):
            v = v + (other(x, sigma) - v) / i
        return v


@attrs.frozen(eq=False)
class Away:
    """Classifier-free guidance: away from what one says, towards another.

    scale: how far, in the family's own measure.
    combine: the two velocities and the scale → the guided one, as :meth:`Engine.guided` has it.
    """

    towards: FlowModel
    away: FlowModel
    scale: float
    combine: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        v = self.towards(x, sigma)
        return self.combine(v, self.away(x, sigma), self.scale)


# ------------------------------------------------------------------------------------------------------- the views


@attrs.define(eq=False)
class Angle:
    """By how many latent columns the panorama is turned now; another number after each :meth:`next`, if rotating."""

    columns: int
    rotating: bool
    now: int = 0
    _times: int = 0

    def next(self) -> None:
        """Goes on to the angle of the next question."""
        self.now = rotation(self._times, self.columns) if self.rotating else 0
        self._times += 1

    def seen(self) -> int:
        """From the front."""
        return self.now

    def behind(self) -> int:
        """From the other side."""
        return (self.now + self.columns // 2) % self.columns


@attrs.frozen(eq=False)
class Turned:
    """The model sees the panorama turned.

    turn: tokens and latent columns → tokens of the panorama rolled to the left.
    by: how many columns.
    """

    model: FlowModel
    turn: Callable[[torch.Tensor, int], torch.Tensor]
    by: Callable[[], int]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        columns = self.by()
        return self.turn(self.model(self.turn(x, columns), sigma), -columns)


@attrs.frozen(eq=False)
class Beside:
    """The model is shown more than the noise, which turns with it as if it were more of its channels.

    shown: tokens, as :meth:`Engine.beside` gives them, where x is and of its dtype.
    """

    model: FlowModel
    shown: torch.Tensor

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.model(torch.cat([x, self.shown], dim=-1), sigma)


@attrs.frozen(eq=False)
class Reconciled:
    """Two views agree: what a model says of its edges, it then says of the middle too.

    share: 0 … 1, 1: the mean.
    """

    front: FlowModel
    behind: FlowModel
    share: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        v = self.front(x, sigma)
        return v + self.share / 2 * (self.behind(x, sigma) - v)


@attrs.frozen(eq=False)
class SmoothPoles:
    """Rows near the poles are expected to be as smooth as their circles are small.

    share: 0 … 1.
    """

    model: FlowModel
    engine: Engine
    grid: Grid
    share: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        v = self.model(x, sigma)
        if sigma <= 0:
            return v
        # x_σ − σ·v is what is left when all noise is taken away at once.
        picture = self.engine.unpack(x - sigma * v, self.grid)
        beside = self.engine.pack(picture - on_sphere(picture))
        return v + self.share / sigma * beside


@attrs.define(eq=False)
class Expecting:
    """The outermost link: goes on to the next angle, and keeps the picture as it is expected."""

    model: FlowModel
    angle: Angle
    each_question: Callable[[], None] | None = None
    _expected: torch.Tensor | None = None
    _fresh: bool = True

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.angle.next()
        if self.each_question is not None:
            self.each_question()
        v = self.model(x, sigma)
        if self._fresh:
            self._expected, self._fresh = x - sigma * v, False
        return v

    def expected(self) -> torch.Tensor | None:
        """The picture as it was expected the first time that the model was asked since the last time of this.

        If it was not asked since, what it expected before; None if it was never asked.
        """
        self._fresh = True
        return self._expected


def chain(
    engine: Engine,
    grid: Grid,
    velocity: Velocity,
    conditioning: Conditioning,
    wishes: Wishes,
    attempt: Attempt = lambda evaluate: evaluate(),
    count: Count | None = None,
    beside: torch.Tensor | None = None,
    hold: Hold | None = None,
    start: float = 1.0,
    each_question: Callable[[], None] | None = None,
    journal: Journal | None = None,
) -> Expecting:
    """The denoiser as a solver asks it, for one picture.

    grid: of its real columns.
    velocity: the denoiser, as :meth:`Engine.velocity` gives it.
    conditioning: its prompts.
    attempt: runs one evaluation.
    count: of evaluations.
    beside: what a model that fills is shown.
    hold: what is kept of a picture; None: nothing.
    start: the noise level at which the run begins.
    each_question: called before the solver's next question is answered.
    journal: which has answers of a run that was stopped, and keeps those of this one.
    """
    count = count or Count()
    angle = Angle(columns=2 * grid.columns, rotating=wishes.rotating)
    turn = partial(_turned, engine, grid)

    def about(embedding: Embedding, branch: str) -> FlowModel:
        return Counted(Retried(OfPrompt(velocity, embedding, branch), attempt), count)

    def view(by: Callable[[], int], name: str = "") -> FlowModel:
        # Views are told apart by name, as prompts are, for diffusers' caches.
        prompts = [about(conditioning.positive, f"cond{name}")]
        prompts += [about(other, f"cond {i}{name}") for i, other in enumerate(conditioning.others, start=2)]
        model: FlowModel = Mean(prompts) if len(prompts) > 1 else prompts[0]
        if wishes.guided.away and conditioning.negative is not None:
            away = about(conditioning.negative, f"uncond{name}")
            model = Away(model, away, wishes.guided.true, engine.guided)
        model = Turned(model, turn, by)
        return model if beside is None else Beside(model, beside)

    model = view(angle.seen)
    if wishes.yaw_consistency > 0:
        model = Reconciled(model, view(angle.behind, " from behind"), wishes.yaw_consistency)
    if wishes.cube_consistency > 0:
        model = SmoothPoles(model, engine, grid, wishes.cube_consistency)
    if hold is not None:
        model = _held(engine, model, hold, start)
    if journal is not None:
        model = Recorded(model, journal)
    return Expecting(model, angle, each_question)


def _held(engine: Engine, model: FlowModel, hold: Hold, start: float) -> Held:
    """The hold in tokens, each latent's strength for all of its channels."""
    picture = hold.latents.tensor.to(engine.device, torch.promote_types(engine.dtype, torch.float32))
    keep = hold.keep.to(picture.device, picture.dtype).expand_as(picture)
    return Held(model, engine.pack(picture), engine.pack(keep), start)


def _turned(engine: Engine, grid: Grid, x: torch.Tensor, columns: int) -> torch.Tensor:
    return engine.turn(x, grid, columns)


# --------------------------------------------------------------------------------------------------------- the steps


def solve(
    scheduler: SchedulerImplementation,
    model: Expecting,
    x: torch.Tensor,
    sigmas: list[float],
    generator: torch.Generator,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """After each step: how many are done, x, and the picture as it was expected before it."""
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas), start=1):
        x = one_step(scheduler, model, x, sigma, sigma_next, generator)
        yield i, x, model.expected()


def one_step(
    scheduler: Any, model: FlowModel, x: torch.Tensor, sigma: float, sigma_next: float, generator: torch.Generator
) -> torch.Tensor:
    """x at ``sigma_next``, by a solver of either kind."""
    if hasattr(scheduler, "advance"):
        return scheduler.advance(model, x, sigma, sigma_next, generator)  # type: ignore[no-any-return]
    return scheduler.step(model(x, sigma), sigma, sigma_next, x, generator)  # type: ignore[no-any-return]


def steps_of_a_whole(steps: int, denoise: float) -> int:
    """How many steps a whole run has of which these are the share ``denoise``, so that not all of it is theirs."""
    return steps if denoise in (0.0, 1.0) else max(steps + 1, math.ceil(steps / denoise))


def levels(scheduler: SchedulerImplementation, steps: int, tokens: int, name: str, denoise: float = 1.0) -> list[float]:
    """``steps + 1`` noise levels to 0, from 1 or, for a part of the way, from where so many steps of a whole run begin.

    tokens: of the image, pad columns included.
    name: the scheduler's, for an error.
    denoise: 0 … 1, the share of a whole run that these steps are.

    Raises Dit360Error for levels that are none.
    """
    if denoise == 0.0:
        return [0.0]
    whole = steps_of_a_whole(steps, denoise)
    return _checked(scheduler.sigmas(whole, tokens), whole, name)[-(steps + 1) :]


def _checked(sigmas: Any, steps: int, name: str) -> list[float]:
    """Raises Dit360Error unless a scheduler returned ``steps + 1`` falling levels that end at exactly 0."""
    # One that never stops must not hang.
    found = [float(sigma) for sigma in itertools.islice(sigmas, steps + 2)] if sigmas is not None else []
    falling = all(a > b for a, b in itertools.pairwise(found))
    if len(found) != steps + 1 or found[-1] != 0 or not falling or not 0 < found[0] <= 1:
        raise Dit360Error(
            f"The scheduler {name!r} returned noise levels that do not fall from at most 1 to exactly 0 in {steps} "
            "steps; report it to its author, or choose another scheduler."
        )
    return found
