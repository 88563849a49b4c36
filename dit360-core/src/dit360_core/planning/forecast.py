"""What is to be planned for: a model by its configuration, a picture, a machine that may not be here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import attrs

from dit360_core.errors import Sentence, UnknownName, setting
from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture, Facts
from dit360_core.models.composed import compose, find
from dit360_core.models.families import architecture_of, expected, shape_folder
from dit360_core.models.from_files import from_files
from dit360_core.models.settings import with_settings
from dit360_core.models.weights.files import ModelFiles, find_lora_file
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, budget_of, check_size
from dit360_core.planning.checks import check_names, padding_of, picture_size
from dit360_core.planning.cost import evaluations
from dit360_core.planning.guidance import guidance_of
from dit360_core.planning.kernels import native_need
from dit360_core.planning.loras import in_files, lora_uses
from dit360_core.planning.places import beside, located
from dit360_core.planning.precision import precision_for
from dit360_core.planning.prediction import CUDA_CONTEXT, Prediction, Setup
from dit360_core.planning.tiling import choose_tiling, tiling_settings
from dit360_core.planning.windows import windows_of
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import Entry, by_priority
from dit360_core.plugins.figures import claimed_scratch
from dit360_core.plugins.offers import LayerNeed, Model, Quantizer
from dit360_core.plugins.registry import Registry
from dit360_core.sphere.size import tokens_of
from dit360_core.sphere.windows import Windows
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import free_memory, gib, used_memory
from dit360_core.system.naming import existing

if TYPE_CHECKING:
    from dit360_core.models.shapes.shapes import Quantized, Shapes
    from dit360_core.models.weights.forms.kept import Kept

log = logging.getLogger("dit360")

UNLIMITED = 2**60
HOST_SHARE = 0.9
"""Of system memory, for programs: the rest is the system's."""
HOST_HELD = 2 * 2**30
"""What this program takes of system memory beside weights that wait there, with CUDA's libraries."""
_AS_LARGE = 7
"""Tensors of float32 as large as the state: itself, the noise and the picture begun with, what is expected, the mean of
the windows and what becomes of it on the way."""
PROGRAM = 600 * 2**20
"""What a process with the libraries takes, where it cannot be looked at."""


@attrs.frozen(kw_only=True, eq=False)
class Subject:
    """A model, a picture and a machine.

    stored: part → bits, where it is quantized already, by ``quantizer``.
    kept: the parts that stay in the fewer bits of a file.

    beside: bytes of a LoRA that is kept beside the transformer's weights.

    here: whether the machine is this one.
    referring: whether the model is shown a picture, too.
    given: whether a picture is given to begin with, or a part of one to keep.
    lora: whether there is one.
    stores_scores: whether the attention kernel that would be used does.
    held: bytes that are taken before the model.
    """

    shapes: Shapes
    facts: Facts
    model: Model
    machine: Machine
    precision: str
    registry: Registry
    sampling: SampleOptions
    decoding: DecodeOptions
    attention: Entry
    lora: bool
    stored: Mapping[str, float] = attrs.field(factory=dict)
    quantizer: str | None = None
    kept: Mapping[str, Kept] = attrs.field(factory=dict)
    beside: int = 0
    here: bool = True
    held: int = 0
    referring: bool = False
    given: bool = False

    @property
    def family(self) -> Architecture:
        """The model's."""
        return self.shapes.architecture

    @property
    def stores_scores(self) -> bool:
        return bool(self.attention.offer.stores_scores)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return picture_size(self.sampling, self.model)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the image, with its pad columns and a picture that is shown, and of the prompt."""
        padding = 0 if self.sampling.circular_mode == "bias" else padding_of(self.sampling, self.model)
        text = self.sampling.max_sequence_length or self.shapes.longest_prompt
        windows, refers = self.windows, self.referring and self.facts.refers
        seen = tokens_of(*self.size, padding) if windows is None else windows.tokens(padding)
        real = tokens_of(*self.size) if windows is None else windows.tokens()
        return seen + (real if refers else 0), text

    @property
    def windows(self) -> Windows | None:
        """In which the picture is seen; None: it is seen at once."""
        return windows_of(self.sampling, self.model)

    @property
    def evaluations(self) -> int:
        """Of the denoiser for a picture, by the solver's own word if it is known by name."""
        asked = self.sampling
        found = () if asked.scheduler_type == "auto" else self.registry.find("scheduler", asked.scheduler_type)
        away = guidance_of(asked, self.model, self.facts).away
        return evaluations(asked, asked.steps or self.model.steps, found[0] if found else None, away=away)

    @property
    def looks(self) -> int:
        """How often the denoiser runs for a picture: in each evaluation once for each window."""
        return self.evaluations * (1 if self.windows is None else self.windows.count)

    @property
    def encodings(self) -> int:
        """How often the autoencoder encodes: what is begun with or kept, and once more what the model is shown."""
        shown = (self.referring and self.facts.refers) or (self.given and self.facts.fills)
        return int(self.given or self.referring or self.sampling.denoise < 1.0) + int(shown)

    @property
    def host_room(self) -> int | None:
        """Bytes of system memory for weights that wait in it, or None if nobody knows how much there is."""
        there = self.machine.system_memory
        return max(0, int(HOST_SHARE * there) - HOST_HELD) if there else None

    def host_suffices(self, prediction: Prediction) -> bool:
        """Whether the machine's system memory, where it is known, takes the weights that wait in it."""
        room = self.host_room
        return room is None or prediction.host <= room

    def smaller(self) -> Subject | None:
        """The same with a picture of half the width, while that is one."""
        width = self.size[0] // 2 // 32 * 32
        if width < 256:
            return None
        check_size(width, width // 2)
        return attrs.evolve(self, sampling=attrs.evolve(self.sampling, width=width, height=width // 2))


def bytes_before(device: str) -> int:
    """Bytes that are taken before a model is loaded: CUDA's own, or, where the memory is the system's, by this
    process with its libraries."""
    return (
        CUDA_CONTEXT
        if device == "cuda"
        else max(PROGRAM, used_memory("cpu"))
        if device == "mps"
        else used_memory("cpu")
    )


def chosen_setup(subject: Subject, options: LoadOptions, budget: int | None = None) -> Setup:
    """What of these options decides about memory."""
    settings = tiling_settings(options, subject.decoding)
    width, height = subject.size
    chosen, tiling = choose_tiling(
        subject.decoding.tiling_backend,
        settings,
        width,
        height,
        registry=subject.registry,
        machine=subject.machine,
        precision=subject.precision,
        vae=subject.shapes.vae(torch_dtype(subject.family.precision_of(AUTOENCODER, subject.precision))),
    )
    return Setup(
        device=subject.machine.device,
        precision=subject.precision,
        offload=options.offload,
        evict=options.evict,
        quantized=_quantized(subject, options),
        stores_scores=subject.stores_scores,
        slice_size=_slices(subject, options),
        width=width,
        height=height,
        tokens=subject.tokens,
        beside=subject.beside,
        state=_state(subject),
        encodes=subject.encodings > 0,
        tiling=tiling,
        tiling_origin=chosen.origin,
        # Of a card that is not here nobody knows what is free.
        budget=budget if budget is not None or subject.here else UNLIMITED,
    )


def _state(subject: Subject) -> int:
    """Bytes of what a picture that is seen in windows has as large as itself while it is sampled."""
    if subject.windows is None:
        return 0
    numbers = 4 * subject.facts.latent_channels * tokens_of(*subject.size)
    return _AS_LARGE * 4 * numbers


def _slices(subject: Subject, options: LoadOptions) -> int:
    own = subject.sampling.attention_slice_size
    return options.attention_slice_size if own < 0 else own


def _quantized(subject: Subject, options: LoadOptions) -> dict[str, Quantized]:
    """Part → how it is quantized: as it is stored, or else as the options say."""
    from dit360_core.models.shapes.shapes import Quantized

    asked = options.quantization_mode not in ("none", "auto")
    anew = subject.family.quantized_by(options.quantization_parts) if asked else ()
    found = {part: _as_kept(subject, kept) for part, kept in subject.kept.items() if part not in anew}
    name = subject.quantizer or (options.quantization_mode if asked else None)
    if name is None:
        return found
    scratch: Callable[[LayerNeed], int]
    try:
        entry = subject.registry.find("quantization", name)[0]
        offer = entry.offer
        scratch = partial(claimed_scratch, entry)
    except UnknownName:
        offer = Quantizer(name="unknown", api=1, bits=8.1, load=lambda: None)
        scratch = offer.scratch
    parts = {*subject.stored, *anew} - set(found)

    def how(part: str) -> Quantized:
        bits = subject.stored.get(part, offer.bits or 16)
        return Quantized(bits=bits, device=subject.machine.device, scratch=scratch, skip=options.quantization_skip)

    return {**found, **{part: how(part) for part in sorted(parts) if part in subject.shapes.there}}


def _as_kept(subject: Subject, kept: Kept) -> Quantized:
    """A part that stays as its file has it: the bits of its layers on the average."""
    from dit360_core.models.shapes.shapes import Quantized
    from dit360_core.models.weights.forms.kept import scratch

    sizes = {name: subject.shapes.weights_of_layer(kept.part, name) for name in kept.layers}
    bits = sum(kept.layers[name] * size for name, size in sizes.items()) / sum(sizes.values())
    return Quantized(bits=bits, device=subject.machine.device, scratch=scratch, layers=frozenset(kept.layers))


def subject_of(
    asked: LoadOptions,
    sampling: SampleOptions,
    decoding: DecodeOptions,
    registry: Registry,
    machine: Machine | None = None,
    *,
    referring: bool = False,
) -> Subject:
    """Everything that planning needs, found without reading weights.

    The machine: the one given; that of ``device``; or, where ``vram`` names gibibytes, there is no CUDA device and none
    was named, a common CUDA card of that size.
    referring: a model that can be shown a picture is shown one.
    """
    asked = located(asked)
    model = check_names(asked, sampling, registry, lambda name: existing(name) is not None, decoding=decoding)
    made = from_files(asked, registry, whole=False, beside=beside(asked))
    if made is not None:
        asked, model, family, folder = made.asked, made.model, made.family, made.files.folder
        replaced = find(family, asked)
        for note in made.notes:
            log.warning("%s", Sentence(note))
    else:
        replaced = find(expected(model, registry), asked)
        folder = shape_folder(model, registry)
        family = architecture_of(folder, registry)
        model = with_settings(model, folder, family)
    if (held := in_files(replaced, lora_uses(asked, model), registry)).note:
        log.warning("%s", Sentence(held.note))
        asked = attrs.evolve(asked, model_lora=False)
    found, here = (machine, True) if machine is not None else machine_for(asked)
    found = with_system_memory(found, asked, here=here)
    whole = compose(family, folder, replaced, weights=False)
    whole.beneath = made
    return subject_in(asked, sampling, decoding, registry, found, model, whole, here=here, referring=referring)


def subject_in(
    asked: LoadOptions,
    sampling: SampleOptions,
    decoding: DecodeOptions,
    registry: Registry,
    machine: Machine,
    model: Model,
    files: ModelFiles,
    *,
    here: bool = True,
    referring: bool = False,
    given: bool = False,
) -> Subject:
    """The same where model, files and machine are known."""
    from dit360_core.models.shapes.shapes import Shapes
    from dit360_core.models.weights.forms.kept import kept_parts
    from dit360_core.models.weights.store import stored_bits, stored_parts

    machine = with_system_memory(machine, asked, here=here)
    folder = files.folder
    family = architecture_of(folder, registry)
    shapes = Shapes.of_files(family, files)
    facts = family.facts(folder)
    heads = facts.heads, facts.head_dim
    kept = kept_parts(family, folder)
    precision = precision_for(asked, model, machine)
    need = native_need(model, machine, precision, heads, family.longest_prompt)
    backend = asked.attention_backend if sampling.attention_backend == "pipeline" else sampling.attention_backend
    return Subject(
        shapes=shapes,
        facts=facts,
        model=model,
        machine=machine,
        precision=precision,
        registry=registry,
        sampling=sampling,
        decoding=decoding,
        attention=_attention(backend, registry, machine, need),
        lora=bool(lora_uses(asked, model)),
        stored=stored_bits(family, folder, shapes.weights_of_layer),
        quantizer=next((stored.address for stored in stored_parts(family, folder).values()), None),
        kept=kept,
        beside=_beside(_beside_kept(asked, kept), model, family),
        here=here,
        held=bytes_before(machine.device),
        referring=referring,
        given=given,
    )


def _beside_kept(asked: LoadOptions, kept: Mapping[str, Kept]) -> LoadOptions:
    """Beside a transformer that stays as its file has it, LoRAs stay whatever was asked for."""
    return attrs.evolve(asked, lora_mode="adapter") if DENOISER in kept else asked


def _beside(asked: LoadOptions, model: Model, family: Architecture) -> int:
    """Bytes of LoRAs that stay beside the weights; one that is not here is taken for one of the usual size."""
    if asked.lora_mode != "adapter":
        return 0
    found = [existing(lora.name) for lora in lora_uses(asked, model)]
    return sum(family.usual_lora_bytes if path is None else find_lora_file(path).stat().st_size for path in found)


def machine_for(asked: LoadOptions) -> tuple[Machine, bool]:
    """The machine to plan for, and whether it is this one: a device that is not here can be planned for all the same,
    and so can a computer with more memory."""
    size = budget_of(asked.vram) if asked.vram is not None else None
    ram = budget_of(asked.ram, "ram") if asked.ram is not None else None
    here = Machine.detect().confirmed()[0].device if asked.device != "cpu" else "cpu"
    if asked.device == "mps" and here != "mps":
        shared = ram or size or 0
        name = f"an Apple GPU with {shared / 2**30:g} GiB of unified memory" if shared else "an Apple GPU"
        return Machine(
            device="mps", device_name=name, device_memory=shared, system_memory=shared, fast_bfloat16=True
        ), False
    if (asked.device == "cuda" and here != "cuda") or (asked.device == "auto" and size is not None and here == "cpu"):
        name = "a CUDA card" if size is None else f"a CUDA card of {size / 2**30:g} GiB"
        return Machine(
            device="cuda", device_name=name, device_memory=size or 0, system_memory=ram or 0, capability=(8, 6),
            fast_bfloat16=True,
        ), False  # fmt: skip
    found = Machine.detect(asked.device).confirmed(asked.device)[0]
    if found.device == "cpu" and ram is not None and ram > found.system_memory:
        return attrs.evolve(found, device_name="a computer like this one", system_memory=ram), False
    return found, True


def with_system_memory(machine: Machine, asked: LoadOptions, *, here: bool) -> Machine:
    """The machine with the system memory that ``ram`` allows it: no more than there is, if it is here."""
    if asked.ram is None:
        return machine
    given, there = budget_of(asked.ram, "ram"), machine.system_memory
    if given is None:
        free = free_memory("cpu") + used_memory("cpu")
        return attrs.evolve(machine, system_memory=min(there or free, free)) if here else machine
    if here and there and given > there:
        log.warning("%s is more than the %s available; that is kept to.", setting("ram", asked.ram), gib(there))
        given = there
    return attrs.evolve(machine, system_memory=given)


def _attention(name: str, registry: Registry, machine: Machine, need: object) -> Entry:
    """The kernel that would be tried first; whether it works is seen when it is loaded."""
    named = () if name in ("auto", "pipeline") else registry.find("attention", name)
    rest = sorted(registry.entries("attention"), key=by_priority)
    every = [*named, *rest]
    return next((entry for entry in every if not judge(entry, machine, need)), every[0])  # type: ignore[arg-type]
