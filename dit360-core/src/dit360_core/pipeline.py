"""encode → sample → decode: what a user of the library holds in hand."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.attention import Kernels, native_need, slicing_notes
from dit360_core.autoencoding import Autoencoding
from dit360_core.checks import (
    begun_with,
    check_guidance,
    check_request,
    padding_of,
    picture_size,
    refuse_without_effect,
)
from dit360_core.errors import Dit360Error, InputError
from dit360_core.machine import Machine
from dit360_core.offers import (
    AttentionNeed,
    Model,
    SchedulerImplementation,
    SchedulerSettings,
    SchedulingNeed,
)
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build, chosen
from dit360_core.panorama import Panorama
from dit360_core.plan import (
    Choice,
    Plan,
    make_plan,
    select,
)
from dit360_core.precision import precision_of
from dit360_core.quantization import choose_quantization
from dit360_core.registry import PLUGIN_ERRORS, Registry, default_registry, one_line
from dit360_core.signature import takes
from dit360_core.stages import Conditioning, Latents, Progress, Tap, stage

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from dit360_core.flux.beside import Strength
    from dit360_core.flux.engine import Engine
    from dit360_core.offers import Attend

log = logging.getLogger("dit360")


class Pipeline:
    """A loaded model. :meth:`generate` does it all; :meth:`encode`, :meth:`sample`, :meth:`decode` are its stages."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        kernels: Kernels | None = None,
        *,
        lora_strength: Strength | None = None,
        registry: Registry | None = None,
        machine: Machine | None = None,
    ) -> None:
        """lora_strength: of the LoRA that is computed beside the weights, if there is one."""
        self.engine = engine
        self.plan = plan
        self._registry = registry or default_registry()
        self._machine = machine or Machine.detect(plan.device)
        # Those that the plan was made with: only the first picture of a size pays for a trial run.
        self._kernels = kernels or Kernels(self._registry, self._machine, plan.options.strict)
        self._lora_strength = lora_strength
        self._told = {(plan.attention.requested, plan.attention.used), *plan.notes}
        self._autoencoding = Autoencoding(engine, plan, self._registry, self._machine)

    @classmethod
    def from_diffusers(
        cls, pipe: Any, model: Model | None = None, *, registry: Registry | None = None, **options: Any
    ) -> Pipeline:
        """Wraps a FluxPipeline that is already loaded. Its transformer gets our attention processor.

        ``model`` gives the defaults (size, steps, guidance). options: attention_backend, attention_slice_size,
        quantization_*, strict and vae_* of LoadOptions; the others are decided by ``pipe`` and raise InputError. Parts
        are quantized in place, those that the pipeline has.
        """
        from dit360_core.flux.engine import Engine
        from dit360_core.flux.layers import parts_of
        from dit360_core.flux.load import attach, quantize_loaded

        open_ = ("attention_backend", "attention_slice_size", "strict")
        free = ("vae_", "quantization_")
        decided = sorted(name for name in options if name not in open_ and not name.startswith(free))
        asked = build(LoadOptions, {"model": "given", **options})
        if decided:
            raise InputError(
                f"{', '.join(decided)} cannot be chosen here: the pipeline is loaded already; leave it out."
            )
        registry = registry or default_registry()
        model = model or Model(name="given", api=1, base="given", width=2048, height=1024)
        # Where an offloaded pipeline computes, which is not where its weights rest.
        device = pipe._execution_device
        machine = Machine.detect(device.type)
        precision = precision_of(pipe.transformer.dtype)
        config = pipe.transformer.config
        need = native_need(model, machine, precision, config.num_attention_heads, config.attention_head_dim)
        kernels = Kernels(registry, machine, asked.strict)
        attention, attend = kernels.choose(asked.attention_backend, need)
        if asked.quantization_mode == "auto":
            raise InputError("quantization_mode=auto decides by files that are not loaded yet; name a mode, or none.")
        if asked.quantization_mode == "none":
            refuse_without_effect(asked, "quantization_mode is none")
        quantization, quantizer = choose_quantization(asked, registry, machine, precision)
        notes = slicing_notes(attention, registry, asked.attention_slice_size)
        plan = make_plan(asked, machine, model, precision, attention, quantization, notes)
        for line in plan.warnings():
            log.warning("%s", line)
        converted = quantize_loaded(pipe, quantizer, parts_of(asked.quantization_parts), asked.quantization_skip)
        plan = attrs.evolve(plan, quantized=converted)
        attach(pipe, attend, asked.attention_slice_size)
        engine = Engine(pipe=pipe, device=device, dtype=pipe.transformer.dtype)
        return cls(engine, plan, kernels, registry=registry, machine=machine)

    # ------------------------------------------------------------------------------------------------------- stages

    @takes(SampleOptions, DecodeOptions)
    def generate(
        self,
        prompt: str,
        *,
        image: Panorama | Image | Latents | None = None,
        latents: torch.Tensor | None = None,
        progress: Progress | None = None,
        tap: Tap | None = None,
        **options: Any,
    ) -> Panorama:
        """A prompt becomes a panorama.

        image: a picture to begin with, of which ``denoise`` is made anew; its size is taken if none is given. latents:
        starting noise ``(1, C, H/8, W/8)`` instead of the seed's. progress: called after each step with (done, steps).
        tap: called with (done, steps, latents of the picture as expected by then), for :meth:`preview` or
        :meth:`decode`.
        """
        decoding = {f.name: options.pop(f.name) for f in attrs.fields(DecodeOptions) if f.name in options}
        decode_options = build(DecodeOptions, decoding)
        asked = build(SampleOptions, {"prompt": prompt, **options}, beside=DecodeOptions)
        asked = begun_with(asked, _size_of(image))
        self.check(asked, decode_options)
        if image is not None and not isinstance(image, Latents):
            image = self.encode_image(image, **decoding)
        conditioning = self.encode(
            prompt,
            negative_prompt=(asked.negative_prompt or "") if asked.true_guidance > 1 else None,
            max_sequence_length=asked.max_sequence_length,
        )
        sampled = self._sample(conditioning, asked, latents, progress, tap, image)
        return self._autoencoding.decode(sampled, decode_options)

    def encode(
        self, prompt: str, *, negative_prompt: str | None = None, max_sequence_length: int | None = None
    ) -> Conditioning:
        """Reads a prompt. negative_prompt (may be empty) is needed for true guidance; None leaves it out.

        max_sequence_length: tokens that the prompt is padded or cut to; None: what the text encoder was made for.
        """
        SampleOptions(prompt=prompt, max_sequence_length=max_sequence_length)
        length = max_sequence_length or self.engine.longest_prompt
        prefix = self.plan.model.prompt_prefix
        told = prompt if prompt.startswith(prefix.strip()) else prefix + prompt
        with stage(self.engine, self.plan, "reading the prompt"):
            return Conditioning(
                prompt=prompt,
                negative_prompt=negative_prompt,
                positive=self.engine.embed(told, length),
                negative=None if negative_prompt is None else self.engine.embed(negative_prompt, length),
                max_sequence_length=length,
            )

    @takes(SampleOptions, leave_out=("prompt", "negative_prompt", "max_sequence_length"))
    def sample(
        self,
        conditioning: Conditioning,
        *,
        image: Latents | None = None,
        latents: torch.Tensor | None = None,
        progress: Progress | None = None,
        tap: Tap | None = None,
        **options: Any,
    ) -> Latents:
        """Noise becomes latents. image: as :meth:`encode_image` gives it. The others: as in :meth:`generate`."""
        encoded = sorted({"prompt", "negative_prompt", "max_sequence_length"} & set(options))
        if encoded:
            raise InputError(
                f"{', '.join(encoded)} belongs to encode; the conditioning holds it already, leave it out."
            )
        asked = build(SampleOptions, {"prompt": conditioning.prompt, **options})
        if asked.true_guidance > 1 and conditioning.negative_prompt:
            asked = attrs.evolve(asked, negative_prompt=conditioning.negative_prompt)
        if image is not None and not isinstance(image, Latents):
            raise InputError(f"image is a {type(image).__name__}, but must be latents; encode_image makes them.")
        asked = begun_with(asked, _size_of(image))
        self.check(asked, DecodeOptions())
        return self._sample(conditioning, asked, latents, progress, tap, image)

    @takes(DecodeOptions)
    def decode(self, latents: Latents | torch.Tensor, **options: Any) -> Panorama:
        """Latents become a picture without a seam. A bare tensor is ``(1, C, H/8, W/8)`` in model space."""
        return self._autoencoding.decode(latents, build(DecodeOptions, options))

    def preview(self, latents: Latents | torch.Tensor, *, scale: int = 8) -> Panorama:
        """A quick look at latents, without the autoencoder: blurred, in roughly the right colours, and seamless.

        scale: pixels to a latent column, 1 … 8; 8 is the size of the picture. See ``tap`` of :meth:`generate`.
        """
        return self._autoencoding.preview(latents, scale)

    @takes(DecodeOptions)
    def encode_image(self, image: Image | Panorama, **options: Any) -> Latents:
        """A picture becomes latents, as seamless as itself: the inverse of :meth:`decode`, up to what the model loses.

        image: an equirectangular picture, twice as wide as high, in multiples of 16 pixels (for a file:
        ``Panorama.open``). Raises InputError if it is of another size.
        """
        panorama = image if isinstance(image, Panorama) else Panorama(image=image)
        return self._autoencoding.encode(panorama, build(DecodeOptions, options))

    def set_lora_strength(self, strength: float) -> None:
        """How strongly the LoRA is applied from now on: −2 … 2, and 0 is without it.

        Raises InputError if it was fused into the weights, which is the default.
        """
        if self._lora_strength is None:
            why = f"{self.plan.lora} is fused into the weights" if self.plan.lora else "no LoRA is loaded"
            raise InputError(f"The LoRA's strength cannot change, because {why}; load it with lora_mode='adapter'.")
        asked = build(LoadOptions, {"lora_strength": strength})
        self._lora_strength.value = float(asked.lora_strength)
        self.plan = attrs.evolve(self.plan, lora_strength=float(asked.lora_strength))

    # --------------------------------------------------------------------------------------------------- inner parts

    def check(self, asked: SampleOptions, decoding: DecodeOptions) -> None:
        """Raises, before any work, what :meth:`sample` and :meth:`decode` would raise later."""
        check_request(
            asked,
            decoding,
            loading=self.plan.options,
            model=self.plan.model,
            registry=self._registry,
            machine=self._machine,
            precision=self.plan.precision,
        )
        check_guidance(asked, self.engine.takes_guidance)

    def _sample(
        self,
        conditioning: Conditioning,
        asked: SampleOptions,
        start: torch.Tensor | None,
        progress: Progress | None,
        tap: Tap | None,
        image: Latents | None,
    ) -> Latents:
        import torch

        from dit360_core.sampling import Asked, Wishes, levels, solve
        from dit360_core.wrap import Grid

        model, engine = self.plan.model, self.engine
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
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        grid = Grid.of_picture(width, height, padding, model.width / width if interpolating else 1.0)

        text = conditioning.positive.tokens.shape[1]
        biased = asked.circular_mode == "bias"
        seen, key_bias = (grid.real, grid.key_bias(text)) if biased else (grid, None)

        attend, attention, slice_size = self._attention_for(asked, seen.tokens + text, biased)
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
            true_guidance=asked.true_guidance,
            rotating=rotating,
            yaw_consistency=asked.yaw_consistency,
            cube_consistency=asked.cube_consistency,
        )
        steps = steps if asked.denoise else 0
        evaluations = self._evaluations(scheduler_choice, steps) * wishes.calls if steps else 0
        log.info("%s, %d steps, %d evaluations of the model", scheduler_choice.sentence(), steps, evaluations)
        doing = f"sampling {width}×{height}"
        with stage(engine, self.plan, doing, scheduler_choice, attention) as working, torch.no_grad():
            sigmas = levels(scheduler, steps, grid.tokens, asked.scheduler_type, asked.denoise)
            if begun is not None:
                noise = (1.0 - sigmas[0]) * begun.to(noise.device) + sigmas[0] * noise
            # The state is kept in float32 (or wider) whatever the model computes in: steps are small differences.
            x = engine.pack(noise.to(engine.device, torch.promote_types(engine.dtype, torch.float32)))
            velocity = engine.velocity(seen, guidance, attend, key_bias)
            asking = Asked(engine, grid, velocity, conditioning, wishes)
            for done, state, expected in solve(scheduler, asking, x, sigmas, generator):
                x = state
                with working.callers():
                    if progress is not None:
                        progress(done, steps)
                    if tap is not None and expected is not None:
                        tap(done, steps, Latents(tensor=engine.unpack(expected, grid).float().cpu()))
            result = engine.unpack(x, grid).cpu()
        if asking.calls != evaluations:
            self._warn_once(
                scheduler_choice.origin,
                f"The scheduler {scheduler_choice.origin} asked the model {asking.calls} times and had told "
                f"{evaluations}; tell its author.",
            )
        if not bool(torch.isfinite(result).all()):
            raise Dit360Error(
                f"Sampling produced numbers that are not finite ({scheduler_choice.origin}, {attention.origin}, "
                f"{self.plan.precision}); try another scheduler, attention backend or precision."
            )
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
            "scheduler": scheduler_choice.as_dict(),
            "evaluations": asking.calls,
            "denoise": asked.denoise,
            "yaw_consistency": asked.yaw_consistency,
            "cube_consistency": asked.cube_consistency,
            "timestep_schedule": asked.timestep_schedule,
            "scheduler_eta": asked.scheduler_eta,
            "attention": attention.as_dict(),
            "attention_slice_size": slice_size,
            # Told here too, since its strength may be another by the time of the decoding.
            "lora": self.plan.lora_as_dict(),
        }
        return Latents(
            tensor=result,
            settings={
                "prompt": asked.prompt,
                "negative_prompt": asked.negative_prompt,
                "requested": chosen(asked, "prompt", "negative_prompt"),
                "used": used,
            },
        )

    def _attention_for(self, asked: SampleOptions, length: int, biased: bool) -> tuple[Attend | None, Choice, int]:
        """The kernel for this picture's ``length`` tokens; None means the one the pipeline was loaded with."""
        from dit360_core.slicing import sliced

        plan, config = self.plan, self.engine.transformer.config
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
        choice, attend = self._kernels.choose(
            plan.attention.requested if of_pipeline else asked.attention_backend, need
        )
        if choice.fell_back:
            self._warn_once((choice.requested, choice.used), choice.sentence())
        for note in slicing_notes(choice, self._registry, slice_size):
            self._warn_once(note, note)
        loaded = plan.attention
        same_kernel = (choice.used, choice.distribution) == (loaded.used, loaded.distribution)
        if same_kernel and slice_size == plan.attention_slice_size:
            return None, choice, slice_size
        return (sliced(attend, slice_size) if slice_size else attend), choice, slice_size

    def _warn_once(self, subject: Any, sentence: str) -> None:
        # A batch of a thousand pictures needs no thousand warnings. The metadata of each has it.
        if subject not in self._told:
            self._told.add(subject)
            log.warning("%s", sentence)

    def _evaluations(self, choice: Choice, steps: int) -> int:
        (entry,) = self._registry.find("scheduler", choice.address)
        try:
            return int(entry.offer.evaluations(steps))
        except PLUGIN_ERRORS as error:
            raise Dit360Error(
                f"The scheduler {choice.origin} cannot say how often it asks the model in {steps} steps "
                f"({one_line(error)}); choose another, or tell its author."
            ) from error

    def _scheduler(self, asked: SampleOptions, steps: int, tokens: int) -> tuple[Choice, SchedulerImplementation]:
        from dit360_core.sampling import steps_of_a_whole

        settings = SchedulerSettings(
            shift=self.engine.shift, timestep_schedule=asked.timestep_schedule, eta=asked.scheduler_eta
        )
        need = SchedulingNeed(steps=steps_of_a_whole(steps, asked.denoise), tokens=tokens)
        return select(
            "scheduler",
            asked.scheduler_type,
            self._registry,
            self._machine,
            need,
            load=lambda offer: offer.load(settings),
        )


def _size_of(image: Any) -> tuple[int, int] | None:
    """Width and height of a picture to begin with. Raises InputError if it is none."""
    from PIL.Image import Image

    if image is None:
        return None
    if not isinstance(image, Latents | Panorama | Image):
        raise InputError(
            f"image is a {type(image).__name__}, but must be a Panorama, a picture of Pillow, or latents; for a file: "
            "Panorama.open."
        )
    return image.size
