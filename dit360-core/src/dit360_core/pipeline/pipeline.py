"""encode → sample → decode: what a user of the library holds in hand."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
from PIL.Image import Image

from dit360_core.errors import InputError, named, remedy, setting
from dit360_core.models.engine import Engine
from dit360_core.models.lora.added import check_addable
from dit360_core.models.lora.beside import Strength
from dit360_core.models.lora.finding import locate
from dit360_core.models.residency.placement import place
from dit360_core.options import (
    ENCODED,
    DecodeOptions,
    EditOptions,
    LargerOptions,
    LoadOptions,
    SampleOptions,
    build,
    build_own,
    changed_options,
    own_options,
)
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from dit360_core.pipeline.adopting import adopt
from dit360_core.pipeline.autoencoding import Autoencoding
from dit360_core.pipeline.denoising import Denoising
from dit360_core.pipeline.editing.canvas import canvas_of
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.editing.given import given as given_by
from dit360_core.pipeline.editing.pasting import pasted
from dit360_core.pipeline.holding import Hold
from dit360_core.pipeline.journal import Journal
from dit360_core.pipeline.ladder import Ladder
from dit360_core.pipeline.prefix import prefixed, spaced
from dit360_core.pipeline.report import measuring
from dit360_core.pipeline.request import Request
from dit360_core.pipeline.signature import takes
from dit360_core.pipeline.stages import Conditioning, Latents, Pixels, Progress, Shown, Tap, letting_go, stage
from dit360_core.pipeline.state import Loaded, State
from dit360_core.pipeline.upscaling import Keeping, colours_of, kept_in, larger
from dit360_core.planning.checks import begun_with, check_filled, check_request, picture_size
from dit360_core.planning.contents import content_at, contents_of
from dit360_core.planning.guidance import check_guidance, guidance_of, negative_prompt_of
from dit360_core.planning.larger import asked_of
from dit360_core.planning.plan import Plan
from dit360_core.planning.prediction import Prediction
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.phases import PhaseKind
from dit360_core.system.recording import Recorder

log = logging.getLogger("dit360")

Decoded = TypeVar("Decoded", Panorama, Pixels)


class Pipeline:
    """A loaded model. :meth:`generate` does it all; :meth:`encode`, :meth:`sample`, :meth:`decode` are its stages."""

    def __init__(self, loaded: Loaded, *, lora_strengths: Sequence[Strength] | None = None) -> None:
        """loaded: the model.
        lora_strengths: of the LoRAs that are computed beside the weights, one for each of the plan's; None: fused.
        """
        self._loaded = loaded
        self._lora_strengths = lora_strengths
        self._denoising = Denoising(loaded)
        self._autoencoding = Autoencoding(loaded)

    @classmethod
    def from_diffusers(
        cls, pipe: Any, model: Model | None = None, *, registry: Registry | None = None, **options: Any
    ) -> Pipeline:
        """Wraps a pipeline of diffusers that is already loaded. Its transformer gets our attention processor.

        pipe: of a family that is known, such as FLUX.1.
        model: gives the defaults (size, steps, guidance).
        registry: of the plugins; None: those that are installed.
        options: attention_backend, attention_slice_size, quantization_*, offload, compile_blocks, strict and vae_* of
        LoadOptions; the others are decided by ``pipe`` and raise InputError. Parts are quantized in place, those that
        the pipeline has. offload: only of a pipeline that is not offloaded yet; it computes on the device on which it
        lies, or on CUDA if it lies on the CPU.
        """
        return cls(adopt(pipe, model, registry or default_registry(), options))

    @property
    def engine(self) -> Engine:
        """The model's parts."""
        return self._loaded.engine

    @property
    def plan(self) -> Plan:
        """What was decided when the model was loaded."""
        return self._loaded.plan

    @property
    def state(self) -> State:
        """What is true now: what became of the plan, of quantized parts and LoRAs, and what was given up since."""
        return self._loaded.state

    @property
    def given_up(self) -> tuple[str, ...]:
        """What was done when memory ran out, so far."""
        return tuple(self.state.given_up)

    @property
    def recorder(self) -> Recorder | None:
        """Who measures memory and time, if anybody does."""
        return self.engine.recorder

    # ------------------------------------------------------------------------------------------------------- stages

    @takes(SampleOptions, EditOptions, DecodeOptions)
    @letting_go
    def generate(
        self,
        prompt: str,
        *,
        image: Panorama | Image | Latents | None = None,
        mask: Image | None = None,
        photo: Photo | Sequence[Photo] | None = None,
        given: Given | None = None,
        latents: torch.Tensor | None = None,
        progress: Progress | None = None,
        tap: Tap | None = None,
        **options: Any,
    ) -> Panorama:
        """A prompt becomes a panorama.

        image: a picture to begin with, of which ``denoise`` is made anew; its size is taken if none is given, and it is
        resized if another one is.
        mask: which part of the image is made anew, the rest staying as it is: white, or what is transparent in the
        image. As large as the image, or of another size of 2:1.
        photo: one or several photos that the panorama is made around.
        given: all of these in one, with how a part is kept, as it was checked before the model was loaded.
        latents: starting noise ``(1, C, H/8, W/8)`` instead of the seed's.
        progress: called after each step with (done, steps).
        tap: called with (done, steps, latents of the picture as expected by then), for :meth:`preview` or
        :meth:`decode`.
        """
        decoding, editing = own_options(DecodeOptions, options), own_options(EditOptions, options)
        options = {name: value for name, value in options.items() if name not in decoding | editing}
        decode_options, edit_options = build(DecodeOptions, decoding), build(EditOptions, editing)
        asked = build(SampleOptions, {"prompt": prompt, **options}, beside=DecodeOptions)
        begun = image if isinstance(image, Latents) else None
        if begun is not None and (mask is not None or photo is not None or edit_options.region is not None):
            raise InputError(
                f"{named('image')} is latents, and {named('mask')}, {named('region')} and {named('photo')} need its "
                "pixels; give the picture itself."
            )
        if given is not None and (image is not None or mask is not None or photo is not None or editing):
            raise InputError(
                f"{named('given')} holds a picture, its mask and its photos already; give either it or these."
            )
        own = given or given_by(None if begun is not None else image, mask, photo, edit_options)
        asked = begun_with(asked, begun.size) if begun is not None else own.outline.begin(asked)
        if given is None:
            own.tell(asked)
        request = partial(Request, options=asked, noise=latents, progress=progress, tap=tap)
        return self._painted(own, begun, asked, decode_options, request)

    @takes(SampleOptions, LargerOptions, EditOptions, DecodeOptions, leave_out=("prompt", "width", "height"))
    @letting_go
    def upscale(
        self,
        image: Panorama | Image,
        prompt: str | None = None,
        *,
        to: int,
        mask: Image | None = None,
        state: str | Path | None = None,
        keep_state: bool = False,
        progress: Progress | None = None,
        tap: Tap | None = None,
        **options: Any,
    ) -> Panorama:
        """A panorama becomes a larger one with new detail, in time and memory that grow with its area only.

        It is resampled, and a part of the way (``denoise``) is made anew in windows of the model's own size.

        image: the panorama.
        prompt: what it shows; None: what its metadata say.
        to: width in pixels, a multiple of 32 above the panorama's.
        mask: which part is made anew, as for :meth:`generate`; elsewhere it is only resampled.
        state: file in which what was computed is kept until all is done: a run that was stopped goes on from there, and
        comes to the same picture bit by bit. None: nothing is kept.
        keep_state: keep that file when all is done, too; delete it when the picture is saved.
        progress, tap: as for :meth:`generate`.
        options: as for :meth:`generate`, and ``faithful``; ``denoise`` is 0.35 here, ``windows`` auto,
        ``cube_consistency`` 1, and ``steps`` the model's own times ``denoise``, where they are not given.

        Raises InputError for a picture without a prompt, a size that is none, or the state of another run.
        """
        asked = asked_of(image, prompt, to, options, self.plan.model)
        decoding, editing = own_options(DecodeOptions, options), own_options(EditOptions, options)
        decode_options, edit_options = build(DecodeOptions, decoding), build(EditOptions, editing)
        enlarging = build_own(LargerOptions, options)
        keeping = Keeping.of(enlarging, colours_of(image), asked.denoise, getattr(image, "file", ""))
        own = given_by(larger(image, to, keeping), mask, None, edit_options)
        asked = own.outline.begin(asked)
        own.tell(asked)
        started = attrs.evolve(asked, seed=secrets.randbits(32)) if asked.seed is None else asked
        model = {**self.state.as_dict(), "weights": {} if state is None else self._weights()}
        with kept_in(state, own, asked, keeping, model, {"seed": started.seed}, keep=keep_state) as journal:
            if journal is not None:
                started = attrs.evolve(asked, seed=journal.drawn["seed"])
            request = partial(Request, options=started, progress=progress, tap=tap, journal=journal)
            return self._painted(own, None, started, decode_options, request, journal, keeping)

    def _weights(self) -> dict[str, str]:
        """Fingerprints of the files on this machine that the model is made of now."""
        added = {f"added {lora['from']}": content_at(str(lora["from"])) for lora in self.state.added_loras}
        return {**contents_of(self.plan.options, self.plan.model), **added}

    def _painted(
        self,
        own: Given,
        begun: Latents | None,
        asked: SampleOptions,
        decode_options: DecodeOptions,
        request: Callable[..., Request],
        journal: Journal | None = None,
        keeping: Keeping | None = None,
    ) -> Panorama:
        """A picture of what is given.

        begun: latents to begin with; None: the picture's that is given, if any.
        request: makes a request of what is still to be found.
        journal: of the run, if there is one.
        keeping: what a larger picture keeps of the smaller one.
        """
        decoding = attrs.asdict(decode_options)
        self.check(asked, decode_options, filled=own.keeps)
        referring = own.keeps and self._refers(own)
        measure = partial(measuring, self._loaded, asked.log_memory_stats, asked, decode_options)
        with measure(referring=referring, given=own.keeps) as measured:
            size = picture_size(asked, self.plan.model)
            own = own.at(size)
            canvas = canvas_of(own, size) if own.keeps else None
            picture = canvas.picture if canvas is not None else own.image if asked.denoise < 1.0 else None
            if begun is None and picture is not None:
                begun = self._begun(picture, decoding, journal)
            hold = None
            if canvas is not None and begun is not None:
                hold = Hold(latents=begun, keep=canvas.keep, told=canvas.told)
            shown = None
            if canvas is not None and self.engine.facts.fills:
                shown = self.encode_hole(canvas.pixels, canvas.unknown[None, None], **decoding)
            reference = None
            if canvas is not None and referring:
                reference = self._autoencoding.encode_pixels(canvas.on_green, build(DecodeOptions, decoding))
            conditioning = self._read(
                asked.prompt,
                negative_prompt_of(asked, self.plan.model, self.engine.facts),
                asked.max_sequence_length,
                asked.prompt_prefix,
                reference is not None,
            )
            sampled = self._denoising.sample(
                request(
                    conditioning=conditioning,
                    image=begun if asked.denoise < 1.0 else None,
                    shown=shown,
                    hold=hold,
                    reference=reference,
                )
            )
            sampled = sampled.asked_too(changed_options(own.options))
            finish: list[Callable[[torch.Tensor], torch.Tensor]] = []
            if keeping is not None:
                sampled = attrs.evolve(sampled, settings=keeping.told_in(sampled.settings))
                finish.append(keeping)
            if canvas is not None:
                finish.append(partial(pasted, canvas=canvas, match=own.options.match_colours))
            panorama = self._autoencoding.decode(sampled, decode_options, finish)
        return measured.written(panorama)

    def _begun(self, picture: Panorama, decoding: Mapping[str, Any], journal: Journal | None) -> Latents:
        """The latents of a picture to begin with, which a run that goes on has already."""
        if journal is None:
            return self.encode_image(picture, **decoding)
        shape = (1, self.engine.latent_channels, picture.height // 8, picture.width // 8)
        kept = journal.latents(shape)
        if kept is not None:
            return Latents(tensor=kept, pose=attrs.evolve(picture.pose, others={}))
        made = self.encode_image(picture, **decoding)
        journal.keep_latents(made.tensor)
        return made

    def _refers(self, own: Given) -> bool:
        """Whether the model is shown what is kept."""
        return self.engine.facts.refers and own.options.reference == "auto"

    def predict(self, *, referring: bool = False, given: bool = False, **options: Any) -> Prediction:
        """The memory of each phase of a picture with the model as it is loaded.

        referring: the model is shown a picture, too.
        given: a picture is given to begin with, or a part of one to keep, and is encoded first; it is, where
        ``denoise`` is below 1.
        options: as for :meth:`generate`.
        """
        decoding = own_options(DecodeOptions, options)
        options = {name: value for name, value in options.items() if name not in decoding}
        asked = build(SampleOptions, {"prompt": "any", **options}, beside=DecodeOptions)
        return self._loaded.predict(asked, build(DecodeOptions, decoding), referring=referring, given=given)

    def encode(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        max_sequence_length: int | None = None,
        prompt_prefix: str | None = None,
        referring: bool = False,
    ) -> Conditioning:
        """Reads a prompt.

        negative_prompt: what true guidance leads away from, which may be empty; None: the family's own, in a model
        whose guidance is that, and else none.
        max_sequence_length: tokens that the prompt is padded or cut to; None: what the text encoder was made for.
        prompt_prefix: text to put before it, unless it is there already; empty: nothing; None: the model's own.
        referring: the model is shown a picture with it, and is told what to make of that.
        """
        asked = SampleOptions(prompt=prompt, max_sequence_length=max_sequence_length, prompt_prefix=prompt_prefix)
        if negative_prompt is None:
            negative_prompt = negative_prompt_of(asked, self.plan.model, self.engine.facts)
        return self._read(prompt, negative_prompt, max_sequence_length, prompt_prefix, referring)

    def _read(
        self,
        prompt: str,
        negative_prompt: str | None,
        max_sequence_length: int | None,
        prompt_prefix: str | None,
        referring: bool,
    ) -> Conditioning:
        """As :meth:`encode`; negative_prompt None: none is read."""
        length = max_sequence_length or self.engine.longest_prompt
        own = self.plan.model.prompt_prefix if prompt_prefix is None else spaced(prompt_prefix)
        read, prefix = prefixed(prompt, own)
        if referring and (told := self.engine.facts.reference_prompt) is not None:
            read, prefix = told + read, told + (prefix or "")
        ladder = Ladder(
            loaded=self._loaded,
            phase=PhaseKind.TEXT,
            doing="reading the prompt",
            asked=lambda: (SampleOptions(prompt=prompt, max_sequence_length=length), DecodeOptions()),
        )
        with stage(self.engine, self.plan, ladder.doing, kind=PhaseKind.TEXT):
            return Conditioning(
                prompt=prompt,
                negative_prompt=negative_prompt,
                positive=ladder.run(lambda: self.engine.embed(read, length)),
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
        shown: Shown | None = None,
        hold: Hold | None = None,
        reference: Latents | None = None,
        latents: torch.Tensor | None = None,
        progress: Progress | None = None,
        tap: Tap | None = None,
        **options: Any,
    ) -> Latents:
        """Noise becomes latents.

        conditioning: as :meth:`encode` gives it.
        image: as :meth:`encode_image` gives it.
        shown: as :meth:`encode_hole` gives it, for a model that fills; its size is taken if none is given.
        hold: what is kept of a picture; with ``denoise`` below 1 the rest begins with that picture, too.
        reference: a picture of the same size that a model which can be shown one sees, as :meth:`encode_image` gives
        it; the conditioning is to be read with ``referring``.
        latents, progress, tap: as in :meth:`generate`.
        """
        encoded = sorted(set(ENCODED) & set(options))
        if encoded:
            raise InputError(
                f"{', '.join(map(named, encoded))} belongs to encode; the conditioning holds it already, "
                f"{remedy('leave_out')}."
            )
        asked = build(SampleOptions, {"prompt": conditioning.prompt, **options})
        guided = guidance_of(asked, self.plan.model, self.engine.facts)
        if guided.away and conditioning.negative_prompt:
            asked = attrs.evolve(asked, negative_prompt=conditioning.negative_prompt)
        if image is not None and not isinstance(image, Latents):
            raise InputError(
                f"{named('image')} is a {type(image).__name__}, but must be latents; encode_image makes them."
            )
        if reference is not None and not isinstance(reference, Latents):
            raise InputError(
                f"{named('reference')} is a {type(reference).__name__}, but must be latents; encode_image makes them."
            )
        if image is None and hold is not None:
            image = hold.latents
        asked = begun_with(asked, None if image is None else image.size, keeps=hold is not None)
        if shown is not None and (asked.width, asked.height) == (None, None):
            asked = attrs.evolve(asked, width=shown.masked.width, height=shown.masked.height)
        self.check(asked, DecodeOptions(), filled=shown is not None)
        referring = reference is not None
        with measuring(self._loaded, asked.log_memory_stats, asked, DecodeOptions(), referring=referring) as measured:
            sampled = self._denoising.sample(
                Request(
                    conditioning=conditioning,
                    options=asked,
                    noise=latents,
                    image=image if asked.denoise < 1.0 else None,
                    shown=shown,
                    hold=hold,
                    reference=reference,
                    progress=progress,
                    tap=tap,
                )
            )
        return measured.written(sampled)

    @takes(DecodeOptions)
    def decode(self, latents: Latents | torch.Tensor, **options: Any) -> Panorama:
        """Latents become a picture without a seam.

        latents: as :meth:`sample` gives them, or a bare tensor ``(1, C, H/8, W/8)`` in model space.
        """
        asked = build(DecodeOptions, options)
        return self._measured(latents, asked, lambda: self._autoencoding.decode(latents, asked))

    @takes(DecodeOptions)
    def decode_pixels(self, latents: Latents | torch.Tensor, **options: Any) -> Pixels:
        """As :meth:`decode`, but not rounded to 8 bits, for whoever goes on to work with the picture.

        latents: as for :meth:`decode`.
        """
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

    def preview(
        self, latents: Latents | torch.Tensor, *, scale: int | None = None, width: int | None = None
    ) -> Panorama:
        """A quick look at latents, without the autoencoder: blurred, in roughly the right colours, and seamless.

        latents: as for :meth:`decode`, or as ``tap`` of :meth:`generate` gives them.
        scale: pixels to a latent column, 1 … 8; 8 is the size of the picture. None: 8, or what ``width`` comes to.
        width: pixels; the picture is no wider than that as far as a pixel to a column allows. Not beside ``scale``.

        Raises InputError for another scale or width, for both, and for what are no latents of this model.
        """
        if scale is not None and width is not None:
            raise InputError("scale and width both say how large a preview is; give one of them.")
        return self._autoencoding.preview(latents, 8 if scale is None else scale, within=width)

    @takes(DecodeOptions)
    def encode_image(self, image: Image | Panorama | torch.Tensor, **options: Any) -> Latents:
        """A picture becomes latents, as seamless as itself: the inverse of :meth:`decode`, up to what the model loses.

        image: an equirectangular picture, twice as wide as high, in multiples of 16 pixels (for a file:
        ``Panorama.open``), or its pixels ``(1, 3, H, W)`` in 0 … 1.

        Raises InputError if it is of another size.
        """
        asked = build(DecodeOptions, options)
        if isinstance(image, torch.Tensor):
            if image.ndim != 4 or image.shape[:2] != (1, 3):
                raise InputError(f"The pixels have the shape {tuple(image.shape)}, but must be (1, 3, H, W).")
            return self._autoencoding.encode_pixels(image.float().cpu(), asked)
        panorama = image if isinstance(image, Panorama) else Panorama(image=image)
        return self._autoencoding.encode(panorama, asked)

    @takes(DecodeOptions)
    def encode_hole(self, pixels: torch.Tensor, mask: torch.Tensor, **options: Any) -> Shown:
        """A picture with a hole, as a model that fills is shown it.

        pixels: of an equirectangular picture, ``(1, 3, H, W)`` in 0 … 1.
        mask: ``(1, 1, H, W)`` in 0 … 1; from 0.5 on a pixel lies in the hole, which is made anew.

        Raises InputError for other shapes.
        """
        return self._autoencoding.encode_hole(pixels.float().cpu(), mask.float().cpu(), build(DecodeOptions, options))

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
        behind.

        Raises InputError or ModelError; then those before stay.
        """
        wanted: dict[Path, float] = {}
        files = []
        for name, strength in loras:
            checked = build(LoadOptions, {"lora_strength": strength}).lora_strength
            files.append(file := locate(name).resolve())
            wanted[file] = wanted.get(file, 0.0) + checked
        added = self._loaded.added
        if added.fits(wanted):
            added.set_strengths(wanted)
        else:
            self._change_added(wanted)
        self.state.added_loras = tuple(
            {"from": name, "strength": float(strength), **added.counts[file]}
            for (name, strength), file in zip(loras, files, strict=True)
        )

    def _change_added(self, wanted: Mapping[Path, float]) -> None:
        """Other LoRAs beside the weights, which are off their device meanwhile if they are offloaded."""
        engine, offload = self.engine, self.engine.residency.offload
        check_addable(offload)
        moved = offload in ("model", "group", "sequential") and not engine.residency.foreign
        if moved:
            engine.residency.displace(engine.pipe)
        try:
            self._loaded.change_added(wanted)
        finally:
            if moved:
                place(engine.pipe, engine.architecture, offload, engine.device)

    def set_lora_strength(self, strength: float, lora: str | None = None) -> None:
        """How strongly a LoRA that the model was loaded with is applied from now on.

        strength: −2 … 2; 0 is without it.
        lora: which, as it was named; None: the only one.

        Raises InputError if it was fused into the weights, which is the default, or if there are several and none is
        named.
        """
        loras = self.state.loras
        names = ", ".join(each.name for each in loras)
        if not loras or self._lora_strengths is None:
            why = f"{names} is fused into the weights" if loras else "no LoRA is loaded"
            raise InputError(
                f"The LoRA's strength cannot change, because {why}; load it with "
                f"{setting('lora_mode', repr('adapter'))}."
            )
        found = [at for at, each in enumerate(loras) if lora is None or each.name == lora]
        if len(found) != 1:
            what = "There are several LoRAs" if found else f"No LoRA {lora!r} is loaded"
            raise InputError(f"{what}; name one of: {names}.")
        asked = float(build(LoadOptions, {"lora_strength": strength}).lora_strength)
        self._lora_strengths[found[0]].value = asked
        self.state.loras = tuple(
            attrs.evolve(each, strength=asked) if at == found[0] else each for at, each in enumerate(loras)
        )

    # --------------------------------------------------------------------------------------------------- inner parts

    def check(self, asked: SampleOptions, decoding: DecodeOptions, *, filled: bool = False) -> None:
        """Raises, before any work, what :meth:`sample` and :meth:`decode` would raise later.

        asked: the options of a picture.
        decoding: of its decoding.
        filled: whether a part of a picture is given that is to be filled.
        """
        check_request(
            asked,
            decoding,
            loading=self.plan.options,
            model=self.plan.model,
            registry=self._loaded.registry,
            machine=self._loaded.machine,
            precision=self.plan.precision,
        )
        check_guidance(asked, self.plan.model, self.engine.facts)
        check_filled(self.plan.options, fills=self.engine.facts.fills, given=filled)
