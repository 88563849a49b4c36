"""From a conditioning to latents: everything that one picture's options decide about the denoising."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch

from dit360_core.errors import Dit360Error, InputError, named, remedy
from dit360_core.models.architecture import DENOISER
from dit360_core.models.engine import Engine, Velocity
from dit360_core.models.families import brought_by
from dit360_core.options import DecodeOptions, SampleOptions, changed_options
from dit360_core.panorama.gpano import MADE, Pose
from dit360_core.pipeline.blank import guidance_notes
from dit360_core.pipeline.filling import check_shown
from dit360_core.pipeline.journal import check_room
from dit360_core.pipeline.ladder import Ladder
from dit360_core.pipeline.request import Request, Resolved
from dit360_core.pipeline.sampling import Count, Wishes, chain, levels, solve, steps_of_a_whole
from dit360_core.pipeline.solver_trial import rehearse
from dit360_core.pipeline.stages import Latents, Stage, letting_go, stage
from dit360_core.pipeline.state import Loaded
from dit360_core.pipeline.windowed import WindowedVelocity
from dit360_core.planning.cost import evaluations
from dit360_core.planning.kernels import slicing_notes
from dit360_core.plugins.choosing import Choice, select
from dit360_core.plugins.entries import CORE, Entry
from dit360_core.plugins.offers import (
    Attend,
    AttentionNeed,
    SchedulerImplementation,
    SchedulerSettings,
    SchedulingNeed,
)
from dit360_core.plugins.slicing import sliced
from dit360_core.sphere.grid import Grid
from dit360_core.system.phases import PhaseKind

log = logging.getLogger("dit360")


@attrs.frozen(kw_only=True, eq=False)
class Kernel:
    """The attention of one picture.

    choice: what was asked and what is used.
    attend: the kernel itself, proven for this picture's size; never sliced.
    slice_size: query rows of a call; 0: all at once.
    attached: whether the denoiser has it already, in these slices.
    stores_scores: whether slices save memory with it.
    """

    choice: Choice
    attend: Attend
    slice_size: int
    attached: bool
    stores_scores: bool

    @property
    def of_this_picture(self) -> Attend | None:
        """What travels with the calls; None where the denoiser has it already."""
        if self.attached:
            return None
        return sliced(self.attend, self.slice_size) if self.slice_size else self.attend


@attrs.frozen(kw_only=True, eq=False)
class Solver:
    """The solver of one picture.

    choice: what was asked and what is used.
    scheduler: the solver itself.
    evaluations: of the denoiser in the whole run, by its own word.
    """

    choice: Choice
    scheduler: SchedulerImplementation
    evaluations: int


class Denoising:
    """A pipeline's denoiser, with the solver and the kernel that each picture asks for."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        plan = loaded.plan
        self._rehearsed: set[Any] = set()
        self._told = {(plan.attention.requested, plan.attention.used), *plan.notes}

    @letting_go
    def sample(self, request: Request) -> Latents:
        """Noise becomes latents, step by step."""
        asked, engine = request.options, self._loaded.engine
        found = Resolved.of(asked, self._loaded.plan.model, engine.facts)
        self._check(request, found)
        kernel = self._kernel(request, found)
        solver = self._solver(request, found)
        generator = torch.Generator("cpu").manual_seed(found.seed)
        noise = self._noise(request, found, generator)
        if request.journal is not None:
            numbers = 4 * engine.latent_channels * found.grid.real.tokens
            check_room(request.journal.path, 1 + solver.evaluations, 4 * numbers)
        log.info("%s, %d steps, %d evaluations of the model", solver.choice.sentence(), found.steps, solver.evaluations)
        count = Count()
        doing = f"sampling {found.width}×{found.height}"
        ladder = self._ladder(asked, doing, kernel, referring=request.reference is not None)
        plan = self._loaded.plan
        with stage(engine, plan, doing, solver.choice, kernel.choice, kind=PhaseKind.STEP) as working, torch.no_grad():
            ladder.run(lambda: engine.bring(DENOISER))
            result = self._solve(request, found, kernel, solver, noise, generator, ladder, count, working)
        # What a run that was stopped has computed is not computed again.
        if request.journal is None and count.calls != solver.evaluations:
            self._warn_once(
                solver.choice.origin,
                f"The scheduler {solver.choice.origin} asked the model {count.calls} times and had told "
                f"{solver.evaluations}; tell its author.",
            )
        self._check_finite(result, solver.choice, kernel.choice)
        return Latents(
            pose=_pose(request),
            tensor=result,
            settings={
                "prompt": asked.prompt,
                "negative_prompt": asked.negative_prompt,
                "requested": changed_options(asked, "prompt", "negative_prompt"),
                "used": self._used(request, found, kernel, solver, count, ladder.slices),
            },
        )

    # ----------------------------------------------------------------------------------------------- before the steps

    def _check(self, request: Request, found: Resolved) -> None:
        """Raises InputError for a conditioning that does not do; tells of guidance that a model cannot bear."""
        asked, conditioning = request.options, request.conditioning
        if found.guidance.away and conditioning.negative is None:
            told = "guidance" if asked.true_guidance <= 1 else "true_guidance"
            raise InputError(f"{named(told)} needs a negative prompt; call encode with negative_prompt='' or a text.")
        check_shown(request.shown, self._loaded.engine, self._loaded.plan.options, found)
        if request.reference is not None and not self._loaded.engine.facts.refers:
            raise InputError(
                f"{named('reference')} is for models that can be shown a picture, and this one cannot; "
                f"{remedy('leave_out')}."
            )
        for note in guidance_notes(self._loaded.plan.model, found.guidance):
            self._warn_once(note, note)
        for embedding in conditioning.embeddings:
            self._loaded.engine.check_embedding(embedding)

    def _kernel(self, request: Request, found: Resolved) -> Kernel:
        """The kernel for this picture's tokens."""
        asked, plan, engine = request.options, self._loaded.plan, self._loaded.engine
        now = self._loaded.state.attention_slice_size
        slice_size = now if asked.attention_slice_size < 0 else asked.attention_slice_size
        facts = engine.facts
        need = AttentionNeed(
            device=plan.device,
            dtype=plan.precision,
            heads=facts.heads,
            head_dim=facts.head_dim,
            length=self._seen(found) * (1 if request.reference is None else 2) + request.conditioning.length,
            key_bias=found.biased and (found.windows is None or found.windows.around),
        )
        of_pipeline = asked.attention_backend == "pipeline"
        requested = plan.attention.requested if of_pipeline else asked.attention_backend
        choice, attend = self._loaded.kernels.choose(requested, need)
        if choice.fell_back:
            self._warn_once((choice.requested, choice.used), choice.sentence())
        for note in slicing_notes(choice, self._loaded.registry, slice_size):
            self._warn_once(note, note)
        return Kernel(
            choice=choice,
            attend=attend,
            slice_size=slice_size,
            attached=choice.address == plan.attention.address and slice_size == now,
            stores_scores=self._entry("attention", choice).offer.stores_scores,
        )

    def _solver(self, request: Request, found: Resolved) -> Solver:
        asked = request.options
        steps = steps_of_a_whole(found.whole, asked.denoise)
        settings = SchedulerSettings(
            shift=self._loaded.engine.shift(steps), timestep_schedule=asked.timestep_schedule, eta=asked.scheduler_eta
        )
        need = SchedulingNeed(steps=steps, tokens=found.tokens)
        choice, scheduler = select(
            "scheduler",
            asked.scheduler_type,
            self._loaded.registry,
            self._loaded.machine,
            need,
            load=lambda offer: offer.load(settings),
        )
        if choice.distribution != CORE:
            self._rehearse(choice, settings, need)
        prompts = 1 + len(request.conditioning.others)
        told = evaluations(asked, found.whole, self._entry("scheduler", choice), prompts, away=found.guidance.away)
        return Solver(choice=choice, scheduler=scheduler, evaluations=told)

    def _rehearse(self, choice: Choice, settings: SchedulerSettings, need: SchedulingNeed) -> None:
        """Raises Dit360Error for a plugin's solver that goes astray on a small tensor; once for each settings."""
        entry = self._entry("scheduler", choice)
        tried = (choice.address, settings.timestep_schedule, settings.eta, need)
        if tried in self._rehearsed:
            return

        def load(eta: float) -> SchedulerImplementation:
            return entry.offer.load(attrs.evolve(settings, eta=eta))  # type: ignore[no-any-return]

        wrong = rehearse(load, need.steps, need.tokens, choice.used, settings.eta)
        if wrong:
            raise Dit360Error(f"The scheduler {choice.origin} is wrong: {wrong}; choose another, or tell its author.")
        self._rehearsed.add(tried)

    def _noise(self, request: Request, found: Resolved, generator: torch.Generator) -> torch.Tensor:
        """The seed's, or the one given. Raises InputError for tensors of another size."""
        noise = self._loaded.engine.noise(found.grid, generator)
        begun = None if request.image is None else request.image.tensor
        held = None if request.hold is None else request.hold.latents.tensor
        seen = None if request.reference is None else request.reference.tensor
        for name, given in (("latents", request.noise), ("image", begun), ("hold", held), ("reference", seen)):
            if given is not None and tuple(given.shape) != tuple(noise.shape):
                raise InputError(
                    f"{name} has the shape {tuple(given.shape)}, but {found.width}×{found.height} pixels need "
                    f"{tuple(noise.shape)}."
                )
        return noise if request.noise is None else request.noise

    def _ladder(self, asked: SampleOptions, doing: str, kernel: Kernel, *, referring: bool) -> Ladder:
        return Ladder(
            loaded=self._loaded,
            phase=PhaseKind.STEP,
            doing=doing,
            asked=lambda: (asked, DecodeOptions()),
            referring=referring,
            # Replaced once there is something to slice.
            slice_attention=(lambda rows: None) if kernel.stores_scores else None,
            slices=kernel.slice_size,
        )

    # ------------------------------------------------------------------------------------------------------ the steps

    def _solve(
        self,
        request: Request,
        found: Resolved,
        kernel: Kernel,
        solver: Solver,
        noise: torch.Tensor,
        generator: torch.Generator,
        ladder: Ladder,
        count: Count,
        working: Stage,
    ) -> torch.Tensor:
        """The steps of a picture, which is told of after each."""
        asked, engine = request.options, self._loaded.engine
        sigmas = levels(solver.scheduler, found.steps, found.tokens, asked.scheduler_type, asked.denoise)
        if request.image is not None:
            noise = (1.0 - sigmas[0]) * request.image.tensor.to(noise.device) + sigmas[0] * noise
        # The state is kept in float32 (or wider) whatever the model computes in: steps are small differences.
        x = engine.pack(noise.to(engine.device, torch.promote_types(engine.dtype, torch.float32)))
        velocity, windowed = self._velocity(request, found, kernel)
        if ladder.slice_attention is not None:
            ladder.slice_attention = partial(self._slice, velocity, kernel)
        wishes = Wishes(
            guided=found.guidance,
            rotating=found.rotating,
            yaw_consistency=asked.yaw_consistency,
            cube_consistency=found.cube_consistency,
        )
        attempt = partial(_attempt, ladder, engine)
        shown = request.shown
        beside = None if shown is None else engine.beside(shown.masked.tensor.to(x), shown.mask.to(x))
        if request.reference is not None:
            # It turns with what is made, as more channels of it do.
            seen = engine.pack(request.reference.tensor.to(x))
            beside = seen if beside is None else torch.cat([beside, seen], dim=-1)
        model = chain(
            engine, found.grid, velocity, request.conditioning, wishes, attempt, count, beside, request.hold, sigmas[0],
            each_question=None if windowed is None else windowed.next, journal=request.journal,
        )  # fmt: skip
        for done, state, expected in solve(solver.scheduler, model, x, sigmas, generator):
            x = state
            engine.mark(f"step {done}")
            self._tell(request, found, done, expected, working, (solver.choice, kernel.choice))
        made = engine.unpack(x, found.grid).cpu()
        return made if request.hold is None else request.hold.settled(made)

    @staticmethod
    def _seen(found: Resolved) -> int:
        """Tokens of the picture that attention has at once."""
        return found.seen.tokens if found.windows is None else found.windows.tokens(found.seen.padding)

    def _velocity(self, request: Request, found: Resolved, kernel: Kernel) -> tuple[Velocity, WindowedVelocity | None]:
        """The denoiser as a function, and the same if it sees windows."""
        engine = self._loaded.engine
        if found.windows is None:
            attend = kernel.of_this_picture
            return engine.velocity(found.grid, found.guidance.embedded, attend, biased=found.biased), None
        biased = found.biased and found.windows.around

        def look(grid: Grid, attend: Attend | None) -> Velocity:
            return engine.velocity(grid, found.guidance.embedded, attend, biased=biased)

        windowed = WindowedVelocity(
            look, found.grid, found.windows, request.options.window_positions, kernel.of_this_picture,
            self._loaded.plan.model.width / found.width,
        )  # fmt: skip
        return windowed, windowed

    def _tell(
        self,
        request: Request,
        found: Resolved,
        done: int,
        expected: torch.Tensor | None,
        working: Stage,
        used: tuple[Choice, Choice],
    ) -> None:
        """Calls what the user gave us to look in.

        expected: the picture as it is expected.
        used: solver and kernel.
        """
        shown = None
        if request.tap is not None and expected is not None:
            shown = self._loaded.engine.unpack(expected, found.grid).float().cpu()
            # Whoever looks in is to see no black picture either.
            self._check_finite(shown, *used)
        with working.callers():
            if request.progress is not None:
                request.progress(done, found.steps)
            if request.tap is not None and shown is not None:
                request.tap(done, found.steps, Latents(tensor=shown))

    def _slice(self, velocity: Velocity, kernel: Kernel, rows: int) -> None:
        """From now on attention goes in slices: for this picture, and for all others that take the same kernel."""
        state = self._loaded.state
        if kernel.choice.address == self._loaded.plan.attention.address:
            self._loaded.engine.attach(kernel.attend, rows)
            state.attention_slice_size = rows
        velocity.use(sliced(kernel.attend, rows))

    # ------------------------------------------------------------------------------------------------- after the steps

    def _used(
        self, request: Request, found: Resolved, kernel: Kernel, solver: Solver, count: Count, slices: int
    ) -> dict[str, Any]:
        """For metadata: what was used.

        slices: of attention, at the end.
        """
        asked, conditioning = request.options, request.conditioning
        return {
            "family": brought_by(self._loaded.engine.architecture, self._loaded.registry),
            **found.as_dict(),
            # Of no consequence where the start was given and no noise is added on the way.
            "seed": found.seed if request.noise is None or asked.scheduler_eta else asked.seed,
            "max_sequence_length": conditioning.max_sequence_length,
            "prompt_prefix": conditioning.prefix,
            **({"prompts": 1 + len(conditioning.others)} if conditioning.others else {}),
            "scheduler": solver.choice.as_dict(),
            "evaluations": count.calls if request.journal is None else solver.evaluations,
            **({"negative_prompt": conditioning.negative_prompt} if found.guidance.away else {}),
            "denoise": asked.denoise,
            **({} if request.shown is None else {"filled": request.shown.share}),
            **({} if request.hold is None else {"hold": dict(request.hold.told)}),
            **({} if request.reference is None else {"reference": True}),
            "yaw_consistency": asked.yaw_consistency,
            "cube_consistency": found.cube_consistency,
            "timestep_schedule": asked.timestep_schedule,
            "scheduler_eta": asked.scheduler_eta,
            "attention": kernel.choice.as_dict(),
            "attention_slice_size": slices,
            # Told here too, since its strength may be another by the time of the decoding.
            **self._loaded.state.lora_metadata(),
        }

    def _check_finite(self, latents: torch.Tensor, scheduler: Choice, attention: Choice) -> None:
        """Raises Dit360Error for what would become a black picture."""
        plan = self._loaded.plan
        if bool(torch.isfinite(latents).all()):
            return
        quantized = plan.quantization.used != "none"
        parts = [scheduler.origin, attention.origin, *([plan.quantization.origin] if quantized else []), plan.precision]
        raise Dit360Error(
            f"Sampling produced numbers that are not finite ({', '.join(parts)}); try another scheduler, attention "
            f"backend{', quantization' if quantized else ''} or precision."
        )

    def _warn_once(self, subject: Any, sentence: str) -> None:
        # A batch of a thousand pictures needs no thousand warnings. The metadata of each has it.
        if subject not in self._told:
            self._told.add(subject)
            log.warning("%s", sentence)

    def _entry(self, kind: str, choice: Choice) -> Entry:
        return self._loaded.registry.find(kind, choice.address)[0]


def _pose(request: Request) -> Pose:
    """That of the picture which is begun with or kept."""
    if request.hold is not None:
        return request.hold.latents.pose
    return MADE if request.image is None else request.image.pose


def _attempt(ladder: Ladder, engine: Engine, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
    """One evaluation of the model, again if memory ran out. Functions of their own, since what a closure closes over
    stays with an exception whatever is cleared."""
    return ladder.run(partial(_once, engine, evaluate))


def _once(engine: Engine, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
    # There, unless a picture that a tap decoded had to make room.
    engine.bring(DENOISER)
    return evaluate()
