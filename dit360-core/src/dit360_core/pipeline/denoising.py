"""From a conditioning to latents: everything that one picture's options decide about the denoising."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import Dit360Error, InputError
from dit360_core.options import DecodeOptions, SampleOptions, chosen
from dit360_core.panorama.gpano import MADE
from dit360_core.pipeline.blank import guidance_notes
from dit360_core.pipeline.ladder import Ladder
from dit360_core.pipeline.stages import Conditioning, Latents, Progress, Tap, letting_go, stage
from dit360_core.pipeline.state import Loaded
from dit360_core.planning.checks import padding_of, picture_size
from dit360_core.planning.kernels import slicing_notes
from dit360_core.plugins.choosing import Choice, select
from dit360_core.plugins.figures import evaluations_told
from dit360_core.plugins.offers import AttentionNeed, SchedulerImplementation, SchedulerSettings, SchedulingNeed
from dit360_core.plugins.registry import CORE

if TYPE_CHECKING:
    import torch

    from dit360_core.models.flux.engine import Engine
    from dit360_core.plugins.offers import Attend

log = logging.getLogger("dit360")


class Denoising:
    """A pipeline's transformer, with the solver and the kernel that each picture asks for."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        plan = loaded.plan
        self._rehearsed: set[Any] = set()
        self._told = {(plan.attention.requested, plan.attention.used), *plan.notes}

    @letting_go
    def sample(
        self,
        conditioning: Conditioning,
        asked: SampleOptions,
        start: torch.Tensor | None,
        progress: Progress | None,
        tap: Tap | None,
        image: Latents | None,
    ) -> Latents:
        import torch

        from dit360_core.pipeline.sampling import Asked, Wishes, levels, solve
        from dit360_core.sphere.grid import Grid

        plan, engine = self._loaded.plan, self._loaded.engine
        model = plan.model
        if asked.true_guidance > 1 and conditioning.negative is None:
            raise InputError("true_guidance needs a negative prompt; call encode with negative_prompt='' or a text.")
        width, height = picture_size(asked, model)
        padding = padding_of(asked, model)
        rotating = model.latent_rotation if asked.latent_rotation is None else asked.latent_rotation
        interpolating = asked.position_interpolation
        if interpolating is None:
            interpolating = model.position_interpolation
        steps = asked.steps or model.steps
        guidance = (model.guidance if asked.guidance is None else asked.guidance) if engine.takes_guidance else None
        for note in guidance_notes(model, guidance, asked.true_guidance):
            self._warn_once(note, note)
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        grid = Grid.of_picture(width, height, padding, model.width / width if interpolating else 1.0)

        text = max(embedding.tokens.shape[1] for embedding in conditioning.embeddings)
        biased = asked.circular_mode == "bias"
        _check_conditioning(conditioning, engine, biased)
        seen, key_bias = (grid.real, grid.key_bias(text)) if biased else (grid, None)

        attend, kernel, attention, slice_size = self._attention_for(asked, seen.tokens + text, biased)
        scheduler_choice, scheduler = self._scheduler(asked, steps, grid.tokens)
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = engine.noise(grid, generator)
        begun = None if image is None else image.tensor
        for name, given in (("latents", start), ("image", begun)):
            if given is not None and tuple(given.shape) != tuple(noise.shape):
                raise InputError(
                    f"{name} has the shape {tuple(given.shape)}, but {width}×{height} pixels need {tuple(noise.shape)}."
                )
        noise = noise if start is None else start
        wishes = Wishes(
            prompts=1 + len(conditioning.others),
            true_guidance=asked.true_guidance,
            rotating=rotating,
            yaw_consistency=asked.yaw_consistency,
            cube_consistency=asked.cube_consistency,
        )
        steps = steps if asked.denoise else 0
        evaluations = self._evaluations(scheduler_choice, steps) * wishes.calls if steps else 0
        log.info("%s, %d steps, %d evaluations of the model", scheduler_choice.sentence(), steps, evaluations)
        doing = f"sampling {width}×{height}"
        ladder = self._ladder(asked, doing, attention, slice_size)
        with stage(engine, plan, doing, scheduler_choice, attention) as working, torch.no_grad():
            ladder.run(lambda: engine.bring("transformer"))
            sigmas = levels(scheduler, steps, grid.tokens, asked.scheduler_type, asked.denoise)
            if begun is not None:
                noise = (1.0 - sigmas[0]) * begun.to(noise.device) + sigmas[0] * noise
            # The state is kept in float32 (or wider) whatever the model computes in: steps are small differences.
            x = engine.pack(noise.to(engine.device, torch.promote_types(engine.dtype, torch.float32)))
            velocity = engine.velocity(seen, guidance, attend, key_bias)
            if ladder.slice_attention is not None:
                ladder.slice_attention = lambda rows: velocity.use(self._sliced(attention, kernel, rows))

            asking = Asked(engine, grid, velocity, conditioning, wishes, partial(_attempt, ladder, engine))
            for done, state, expected in solve(scheduler, asking, x, sigmas, generator):
                x = state
                engine.mark(f"step {done}")
                shown = None
                if tap is not None and expected is not None:
                    shown = engine.unpack(expected, grid).float().cpu()
                    # Whoever looks in is to see no black picture either.
                    self._check_finite(shown, scheduler_choice, attention)
                with working.callers():
                    if progress is not None:
                        progress(done, steps)
                    if tap is not None and shown is not None:
                        tap(done, steps, Latents(tensor=shown))
            result = engine.unpack(x, grid).cpu()
        if asking.calls != evaluations:
            self._warn_once(
                scheduler_choice.origin,
                f"The scheduler {scheduler_choice.origin} asked the model {asking.calls} times and had told "
                f"{evaluations}; tell its author.",
            )
        self._check_finite(result, scheduler_choice, attention)
        used = {
            "width": width,
            "height": height,
            "steps": steps,
            "guidance": guidance,
            "true_guidance": asked.true_guidance,
            # Of no consequence where the start was given and no noise is added on the way.
            "seed": seed if start is None or asked.scheduler_eta else asked.seed,
            "circular_padding": padding,
            "circular_mode": asked.circular_mode,
            "latent_rotation": rotating,
            "position_interpolation": interpolating,
            "max_sequence_length": conditioning.max_sequence_length,
            "prompt_prefix": conditioning.prefix,
            **({"prompts": wishes.prompts} if conditioning.others else {}),
            "scheduler": scheduler_choice.as_dict(),
            "evaluations": asking.calls,
            "denoise": asked.denoise,
            "yaw_consistency": asked.yaw_consistency,
            "cube_consistency": asked.cube_consistency,
            "timestep_schedule": asked.timestep_schedule,
            "scheduler_eta": asked.scheduler_eta,
            "attention": attention.as_dict(),
            "attention_slice_size": ladder.slices,
            # Told here too, since its strength may be another by the time of the decoding.
            **plan.told_of_loras(),
        }
        return Latents(
            pose=MADE if image is None else image.pose,
            tensor=result,
            settings={
                "prompt": asked.prompt,
                "negative_prompt": asked.negative_prompt,
                "requested": chosen(asked, "prompt", "negative_prompt"),
                "used": used,
            },
        )

    def _attention_for(
        self, asked: SampleOptions, length: int, biased: bool
    ) -> tuple[Attend | None, Attend, Choice, int]:
        """The kernel for this picture's ``length`` tokens, None meaning the one the pipeline was loaded with; and the
        same before it is cut in slices."""
        from dit360_core.plugins.slicing import sliced

        plan, config = self._loaded.plan, self._loaded.engine.config
        slice_size = plan.attention_slice_size if asked.attention_slice_size < 0 else asked.attention_slice_size
        need = AttentionNeed(
            device=plan.device,
            dtype=plan.precision,
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            length=length,
            key_bias=biased,
        )
        of_pipeline = asked.attention_backend == "pipeline"
        choice, attend = self._loaded.kernels.choose(
            plan.attention.requested if of_pipeline else asked.attention_backend, need
        )
        if choice.fell_back:
            self._warn_once((choice.requested, choice.used), choice.sentence())
        for note in slicing_notes(choice, self._loaded.registry, slice_size):
            self._warn_once(note, note)
        loaded = plan.attention
        same_kernel = (choice.used, choice.distribution) == (loaded.used, loaded.distribution)
        if same_kernel and slice_size == plan.attention_slice_size:
            return None, attend, choice, slice_size
        return (sliced(attend, slice_size) if slice_size else attend), attend, choice, slice_size

    def _ladder(self, asked: SampleOptions, doing: str, attention: Choice, slice_size: int) -> Ladder:
        (entry,) = self._loaded.registry.find("attention", attention.address)
        return Ladder(
            loaded=self._loaded,
            phase="step",
            doing=doing,
            asked=lambda: (asked, DecodeOptions()),
            # Replaced once there is something to slice.
            slice_attention=(lambda rows: None) if entry.offer.stores_scores else None,
            slices=slice_size,
        )

    def _sliced(self, attention: Choice, attend: Attend, rows: int) -> Attend:
        from dit360_core.models.flux.load import attach
        from dit360_core.plugins.slicing import sliced

        if attention.address == self._loaded.plan.attention.address:
            attach(self._loaded.engine.transformer, attend, rows)
            self._loaded.plan = attrs.evolve(self._loaded.plan, attention_slice_size=rows)
        return sliced(attend, rows)

    def _check_finite(self, latents: torch.Tensor, scheduler: Choice, attention: Choice) -> None:
        """Raises Dit360Error for what would become a black picture."""
        import torch

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

    def _evaluations(self, choice: Choice, steps: int) -> int:
        (entry,) = self._loaded.registry.find("scheduler", choice.address)
        return evaluations_told(entry, steps)

    def _scheduler(self, asked: SampleOptions, steps: int, tokens: int) -> tuple[Choice, SchedulerImplementation]:
        from dit360_core.pipeline.sampling import steps_of_a_whole

        settings = SchedulerSettings(
            shift=self._loaded.engine.shift, timestep_schedule=asked.timestep_schedule, eta=asked.scheduler_eta
        )
        need = SchedulingNeed(steps=steps_of_a_whole(steps, asked.denoise), tokens=tokens)
        choice, scheduler = select(
            "scheduler",
            asked.scheduler_type,
            self._loaded.registry,
            self._loaded.machine,
            need,
            load=lambda offer: offer.load(settings),
        )
        if choice.distribution != CORE and steps:
            self._rehearse(choice, settings, need)
        return choice, scheduler

    def _rehearse(self, choice: Choice, settings: SchedulerSettings, need: SchedulingNeed) -> None:
        """Raises Dit360Error for a plugin's solver that goes astray on a small tensor; once for each settings."""
        from dit360_core.pipeline.solver_trial import rehearse

        (entry,) = self._loaded.registry.find("scheduler", choice.address)
        tried = (choice.address, settings.timestep_schedule, settings.eta, need)
        if tried in self._rehearsed:
            return

        def load(eta: float) -> SchedulerImplementation:
            return entry.offer.load(attrs.evolve(settings, eta=eta))  # type: ignore[no-any-return]

        wrong = rehearse(load, need.steps, need.tokens, choice.used, settings.eta)
        if wrong:
            raise Dit360Error(f"The scheduler {choice.origin} is wrong: {wrong}; choose another, or tell its author.")
        self._rehearsed.add(tried)


def _attempt(ladder: Ladder, engine: Engine, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
    """One evaluation of the model, again if memory ran out. Functions of their own, since what a closure closes over
    stays with an exception whatever is cleared."""
    return ladder.run(partial(_once, engine, evaluate))


def _once(engine: Engine, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
    # There, unless a picture that a tap decoded had to make room.
    engine.bring("transformer")
    return evaluate()


def _check_conditioning(conditioning: Conditioning, engine: Engine, biased: bool) -> None:
    """Raises InputError for embeddings that are another model's, which a conditioning made elsewhere can hold.

    biased: the bias on the keys counts the prompt's tokens, so that all prompts need as many.
    """
    embeddings = conditioning.embeddings
    wanted = (int(engine.config.joint_attention_dim), int(engine.config.pooled_projection_dim))
    for embedding in embeddings:
        found = (int(embedding.tokens.shape[-1]), int(embedding.pooled.shape[-1]))
        if found != wanted:
            raise InputError(
                f"The conditioning has {found[0]} channels a token and {found[1]} in all, and this model reads "
                f"{wanted[0]} and {wanted[1]}; encode the prompt with this model's text encoders."
            )
    lengths = sorted({int(embedding.tokens.shape[1]) for embedding in embeddings})
    if biased and len(lengths) > 1:
        raise InputError(
            f"circular_mode=bias needs prompts of one length, and these have {' and '.join(map(str, lengths))} tokens; "
            "use circular_mode=pad."
        )
