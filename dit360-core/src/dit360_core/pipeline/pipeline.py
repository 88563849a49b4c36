"""encode → sample → decode: what a user of the library holds in hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from dit360_core.errors import InputError
from dit360_core.options import ENCODED, DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.autoencoding import Autoencoding
from dit360_core.pipeline.denoising import Denoising
from dit360_core.pipeline.ladder import Ladder
from dit360_core.pipeline.prefix import prefixed, spaced
from dit360_core.pipeline.report import measuring
from dit360_core.pipeline.signature import takes
from dit360_core.pipeline.stages import Conditioning, Latents, Pixels, Progress, Tap, letting_go, stage
from dit360_core.pipeline.state import Loaded
from dit360_core.planning.checks import begun_with, check_guidance, check_loading, check_request, refuse_without_effect
from dit360_core.planning.kernels import Kernels, native_need, slicing_notes
from dit360_core.planning.plan import Plan, make_plan
from dit360_core.planning.prediction import Prediction
from dit360_core.planning.quantization import choose_quantization
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.dtypes import precision_of
from dit360_core.system.machine import Machine
from dit360_core.system.recording import Recorder

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from dit360_core.models.flux.engine import Engine
    from dit360_core.models.lora.beside import Strength
    from dit360_core.models.shapes.shapes import Shapes
    from dit360_core.models.weights.conversion import Converted

log = logging.getLogger("dit360")

Decoded = TypeVar("Decoded", Panorama, Pixels)


class Pipeline:
    """A loaded model. :meth:`generate` does it all; :meth:`encode`, :meth:`sample`, :meth:`decode` are its stages."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        kernels: Kernels | None = None,
        *,
        lora_strengths: Sequence[Strength] | None = None,
        registry: Registry | None = None,
        machine: Machine | None = None,
        shapes: Callable[[], Shapes] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """lora_strengths: of the LoRAs that are computed beside the weights, one for each of the plan's; None: fused.

        shapes: makes those of the model, where its files tell them. recorder: measures every picture's phases.
        """
        registry = registry or default_registry()
        machine = machine or Machine.detect(plan.device)
        self._loaded = Loaded(
            engine=engine,
            plan=plan,
            registry=registry,
            machine=machine,
            # Those that the plan was made with: only the first picture of a size pays for a trial run.
            kernels=kernels or Kernels(registry, machine, plan.options.strict),
            make_shapes=shapes or (lambda: _shapes_of(engine.pipe)),
        )
        self._lora_strengths = lora_strengths
        self._denoising = Denoising(self._loaded)
        self._autoencoding = Autoencoding(self._loaded)
        if recorder is not None:
            engine.recorders.append(recorder)

    @property
    def engine(self) -> Engine:
        """The model's parts."""
        return self._loaded.engine

    @property
    def plan(self) -> Plan:
        """What was decided; where memory ran out, with what was done about it."""
        return self._loaded.plan

    @property
    def given_up(self) -> tuple[str, ...]:
        """What was done when memory ran out, so far."""
        return tuple(self._loaded.given_up)

    @property
    def recorder(self) -> Recorder | None:
        """Who measures memory and time, if anybody does."""
        return self.engine.recorder

    @classmethod
    def from_diffusers(
        cls, pipe: Any, model: Model | None = None, *, registry: Registry | None = None, **options: Any
    ) -> Pipeline:
        """Wraps a FluxPipeline that is already loaded. Its transformer gets our attention processor.

        ``model`` gives the defaults (size, steps, guidance). options: attention_backend, attention_slice_size,
        quantization_*, offload, compile_blocks, strict and vae_* of LoadOptions; the others are decided by ``pipe`` and
        raise InputError. Parts are quantized in place, those that the pipeline has. offload: only of a pipeline that is
        not offloaded yet; it computes on the device on which it lies, or on CUDA if it lies on the CPU.
        """
        from dit360_core.models.flux.engine import Engine
        from dit360_core.models.flux.folder import like_schnell
        from dit360_core.models.flux.given import check_given
        from dit360_core.models.flux.layers import parts_of
        from dit360_core.models.flux.load import attach, compile_blocks, quantize_loaded
        from dit360_core.models.residency.placement import device_for, offloaded_by, place
        from dit360_core.models.residency.residency import Residency

        open_ = ("attention_backend", "attention_slice_size", "offload", "compile_blocks", "strict")
        free = ("vae_", "quantization_")
        decided = sorted(name for name in options if name not in open_ and not name.startswith(free))
        asked = build(LoadOptions, {"model": "given", **options})
        if decided:
            raise InputError(
                f"{', '.join(decided)} cannot be chosen here: the pipeline is loaded already; leave it out."
            )
        check_given(pipe)
        registry = registry or default_registry()
        if model is None:
            model = Model(name="given", api=1, base="given", width=2048, height=1024)
            model = model if pipe.transformer.config.guidance_embeds else like_schnell(model)
        # Where an offloaded pipeline computes, which is not where its weights rest.
        device = pipe._execution_device
        foreign = offloaded_by(pipe)
        if asked.offload != "none":
            device = device_for(pipe, device, asked.offload)
        machine = Machine.detect(device.type)
        check_loading(asked, machine, model)
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
        attach(pipe.transformer, attend, asked.attention_slice_size)
        if asked.compile_blocks:
            compile_blocks(pipe.transformer)
        if asked.offload != "none":
            place(pipe.to("cpu"), asked.offload, device)
        residency = Residency(device=device, offload=asked.offload, foreign=foreign != "none")
        if residency.foreign:
            plan = attrs.evolve(plan, offload=foreign)
        engine = Engine(pipe=pipe, device=device, dtype=pipe.transformer.dtype, residency=residency)
        return cls(engine, plan, kernels, registry=registry, machine=machine)

    # ------------------------------------------------------------------------------------------------------- stages

    @takes(SampleOptions, DecodeOptions)
    @letting_go
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
        with measuring(self._loaded, asked.log_memory_stats, asked, decode_options) as measured:
            if image is not None and not isinstance(image, Latents):
                image = self.encode_image(image, **decoding)
            conditioning = self.encode(
                prompt,
                negative_prompt=(asked.negative_prompt or "") if asked.true_guidance > 1 else None,
                max_sequence_length=asked.max_sequence_length,
                prompt_prefix=asked.prompt_prefix,
            )
            sampled = self._denoising.sample(conditioning, asked, latents, progress, tap, image)
            panorama = self._autoencoding.decode(sampled, decode_options)
        return measured.written(panorama)

    def predict(self, **options: Any) -> Prediction:
        """The memory of each phase of a picture with the model as it is loaded. options: as for :meth:`generate`."""
        decoding = {f.name: options.pop(f.name) for f in attrs.fields(DecodeOptions) if f.name in options}
        asked = build(SampleOptions, {"prompt": "any", **options}, beside=DecodeOptions)
        return self._loaded.predict(asked, build(DecodeOptions, decoding))

    def encode(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        max_sequence_length: int | None = None,
        prompt_prefix: str | None = None,
    ) -> Conditioning:
        """Reads a prompt. negative_prompt (may be empty) is needed for true guidance; None leaves it out.

        max_sequence_length: tokens that the prompt is padded or cut to; None: what the text encoder was made for.
        prompt_prefix: text to put before it, unless it is there already; empty: nothing; None: the model's own.
        """
        SampleOptions(prompt=prompt, max_sequence_length=max_sequence_length, prompt_prefix=prompt_prefix)
        length = max_sequence_length or self.engine.longest_prompt
        told, prefix = prefixed(
            prompt, self.plan.model.prompt_prefix if prompt_prefix is None else spaced(prompt_prefix)
        )
        ladder = Ladder(
            loaded=self._loaded,
            phase="text encoding",
            doing="reading the prompt",
            asked=lambda: (SampleOptions(prompt=prompt, max_sequence_length=length), DecodeOptions()),
        )
        with stage(self.engine, self.plan, ladder.doing):
            return Conditioning(
                prompt=prompt,
                negative_prompt=negative_prompt,
                positive=ladder.run(lambda: self.engine.embed(told, length)),
                negative=None
                if negative_prompt is None
                else ladder.run(lambda: self.engine.embed(negative_prompt, length)),
                max_sequence_length=length,
                prefix=prefix,
            )

    @takes(SampleOptions, leave_out=ENCODED)
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
        encoded = sorted(set(ENCODED) & set(options))
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
        with measuring(self._loaded, asked.log_memory_stats, asked, DecodeOptions()) as measured:
            sampled = self._denoising.sample(conditioning, asked, latents, progress, tap, image)
        return measured.written(sampled)

    @takes(DecodeOptions)
    def decode(self, latents: Latents | torch.Tensor, **options: Any) -> Panorama:
        """Latents become a picture without a seam. A bare tensor is ``(1, C, H/8, W/8)`` in model space."""
        asked = build(DecodeOptions, options)
        return self._measured(latents, asked, lambda: self._autoencoding.decode(latents, asked))

    @takes(DecodeOptions)
    def decode_pixels(self, latents: Latents | torch.Tensor, **options: Any) -> Pixels:
        """As :meth:`decode`, but not rounded to 8 bits, for whoever goes on to work with the picture."""
        asked = build(DecodeOptions, options)
        return self._measured(latents, asked, lambda: self._autoencoding.pixels(latents, asked))

    def _measured(
        self, latents: Latents | torch.Tensor, asked: DecodeOptions, decode: Callable[[], Decoded]
    ) -> Decoded:
        """Measures a decoding if the sampling was measured."""
        used: Any = latents.settings.get("used", {}) if isinstance(latents, Latents) else {}
        if "memory" not in used or not isinstance(latents, Latents):
            return decode()
        size = SampleOptions(prompt="any", width=latents.width, height=latents.height)
        with measuring(self._loaded, True, size, asked) as measured:
            decoded = decode()
        return measured.written(decoded)

    def preview(self, latents: Latents | torch.Tensor, *, scale: int = 8) -> Panorama:
        """A quick look at latents, without the autoencoder: blurred, in roughly the right colours, and seamless.

        scale: pixels to a latent column, 1 … 8; 8 is the size of the picture. See ``tap`` of :meth:`generate`.
        """
        return self._autoencoding.preview(latents, scale)

    @takes(DecodeOptions)
    def encode_image(self, image: Image | Panorama | torch.Tensor, **options: Any) -> Latents:
        """A picture becomes latents, as seamless as itself: the inverse of :meth:`decode`, up to what the model loses.

        image: an equirectangular picture, twice as wide as high, in multiples of 16 pixels (for a file:
        ``Panorama.open``), or its pixels ``(1, 3, H, W)`` in 0 … 1. Raises InputError if it is of another size.
        """
        import torch

        asked = build(DecodeOptions, options)
        if isinstance(image, torch.Tensor):
            if image.ndim != 4 or image.shape[:2] != (1, 3):
                raise InputError(f"The pixels have the shape {tuple(image.shape)}, but must be (1, 3, H, W).")
            return self._autoencoding.encode_pixels(image.float().cpu(), asked)
        panorama = image if isinstance(image, Panorama) else Panorama(image=image)
        return self._autoencoding.encode(panorama, asked)

    @contextmanager
    def interruptible(self, check: Callable[[], None]) -> Iterator[None]:
        """In this block ``check`` is called many times in each step and each decoding; what it raises ends them.

        The pipeline stays usable. With compiled blocks it is called between steps only.
        """
        with self.engine.watched(check):
            yield

    def set_loras(self, loras: Sequence[tuple[str, float]]) -> None:
        """LoRAs to apply from now on, besides the one that the model was loaded with; none: an empty list.

        loras: (safetensors file, folder or Hub id, strength −2 … 2) each; of one that is named twice the strengths add
        up. They are computed beside the weights, whatever those are stored in, so that taking one away leaves nothing
        behind. Raises InputError or ModelError; then those before stay.
        """
        from dit360_core.models.lora.added import check_addable
        from dit360_core.models.lora.fitting import locate
        from dit360_core.models.residency.placement import place

        wanted: dict[Path, float] = {}
        files = []
        for name, strength in loras:
            checked = build(LoadOptions, {"lora_strength": strength}).lora_strength
            files.append(file := locate(name).resolve())
            wanted[file] = wanted.get(file, 0.0) + checked
        added, engine, offload = self._loaded.added, self.engine, self.engine.residency.offload
        if added.fits(wanted):
            added.set_strengths(wanted)
        else:
            check_addable(offload)
            moved = offload in ("model", "group", "sequential") and not engine.residency.foreign
            if moved:
                engine.residency.displace(engine.pipe)
            try:
                transformer = engine.pipe.transformer
                added.change(transformer, engine.config, wanted, self._loaded.like_factors(transformer))
            finally:
                if moved:
                    place(engine.pipe, offload, engine.device)
        told = tuple(
            {"from": name, "strength": float(strength), **added.counts[file]}
            for (name, strength), file in zip(loras, files, strict=True)
        )
        self._loaded.plan = attrs.evolve(self.plan, added_loras=told)

    def set_lora_strength(self, strength: float, lora: str | None = None) -> None:
        """How strongly a LoRA that the model was loaded with is applied from now on: −2 … 2, and 0 is without it.

        lora: which, as it was named; None: the only one. Raises InputError if it was fused into the weights, which is
        the default, or if there are several and none is named.
        """
        loras = self.plan.loras
        names = ", ".join(each.name for each in loras)
        if not loras or self._lora_strengths is None:
            why = f"{names} is fused into the weights" if loras else "no LoRA is loaded"
            raise InputError(f"The LoRA's strength cannot change, because {why}; load it with lora_mode='adapter'.")
        found = [place for place, each in enumerate(loras) if lora is None or each.name == lora]
        if len(found) != 1:
            what = "There are several LoRAs" if found else f"No LoRA {lora!r} is loaded"
            raise InputError(f"{what}; name one of: {names}.")
        asked = float(build(LoadOptions, {"lora_strength": strength}).lora_strength)
        self._lora_strengths[found[0]].value = asked
        changed = tuple(
            attrs.evolve(each, strength=asked) if place == found[0] else each for place, each in enumerate(loras)
        )
        self._loaded.plan = attrs.evolve(self.plan, loras=changed)

    # --------------------------------------------------------------------------------------------------- inner parts

    def told_of(self, converted: tuple[Converted, ...], lora_kept: float | None) -> None:
        """Parts that were quantized when they were read, after the pipeline was made."""
        others = [part for part in self.plan.quantized if part.part not in {new.part for new in converted}]
        kept = self.plan.lora_kept if lora_kept is None else lora_kept
        self._loaded.plan = attrs.evolve(self.plan, quantized=(*others, *converted), lora_kept=kept)

    def put_added_onto(self, transformer: Any) -> None:
        """LoRAs that were added, beside a transformer that was read again."""
        self._loaded.added.onto(transformer, self.engine.config, self._loaded.like_factors(transformer))

    def check(self, asked: SampleOptions, decoding: DecodeOptions) -> None:
        """Raises, before any work, what :meth:`sample` and :meth:`decode` would raise later."""
        check_request(
            asked,
            decoding,
            loading=self.plan.options,
            model=self.plan.model,
            registry=self._loaded.registry,
            machine=self._loaded.machine,
            precision=self.plan.precision,
        )
        check_guidance(asked, self.engine.takes_guidance)


def _shapes_of(pipe: Any) -> Shapes:
    from dit360_core.models.shapes.shapes import Shapes

    return Shapes.of_pipeline(pipe)


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
