"""From load options to a pipeline: first everything that can go wrong cheaply, then the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.errors import BackendUnavailable, marked, named
from dit360_core.models.architecture import DENOISER, Architecture, Facts
from dit360_core.models.composed import compose, find
from dit360_core.models.families import architecture_of, expected, locate, shape_folder
from dit360_core.models.from_files import FromFiles, from_files
from dit360_core.models.lora import finding
from dit360_core.models.settings import remembered_loras, with_settings
from dit360_core.models.weights.files import ModelFiles
from dit360_core.models.weights.forms.manifest import bytes_of_weights
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.pipeline.signature import takes
from dit360_core.planning.budget import fit, one
from dit360_core.planning.checks import (
    check_filled,
    check_loading,
    check_names,
    check_request,
    refuse_without_effect,
)
from dit360_core.planning.forecast import subject_in
from dit360_core.planning.guidance import check_guidance
from dit360_core.planning.kernels import Kernels, native_need, slicing_notes
from dit360_core.planning.loras import InFiles, LoraUse, in_files, lora_uses
from dit360_core.planning.places import beside, located
from dit360_core.planning.plan import make_plan
from dit360_core.planning.precision import precision_for
from dit360_core.planning.quantization import check_stored, choose_quantization, choose_stored
from dit360_core.planning.speed import ASSUMED, measure
from dit360_core.planning.verdict import verdict_of
from dit360_core.plugins.choosing import Choice
from dit360_core.plugins.offers import Attend, Model
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine
from dit360_core.system.memory import free_memory
from dit360_core.system.naming import existing
from dit360_core.system.progress import Told, telling

if TYPE_CHECKING:
    from dit360_core.models.weights.forms.kept import Kept
    from dit360_core.models.weights.store import Stored
    from dit360_core.pipeline.pipeline import Pipeline
    from dit360_core.pipeline.prepared import Prepared

log = logging.getLogger("dit360")

Picture = tuple[SampleOptions, DecodeOptions]


@takes(LoadOptions)
def load(
    model: str = "tiny",
    *,
    registry: Registry | None = None,
    machine: Machine | None = None,
    progress: Told | None = None,
    **options: Any,
) -> Pipeline:
    """Loads a model and decides which backends it runs on.

    model: a known name, a diffusers folder, or a Hub id.
    registry: of the plugins; None: those that are installed.
    machine: what is there to compute on; None: this one, looked at now.
    progress: called while files are downloaded, read and moved, with (what is being done, bytes done, bytes in all), by
        any thread. What it raises ends the loading, and is raised.

    Raises InputError (bad option, unknown name), ModelError (files), BackendUnavailable (reasons of every candidate),
    all before the weights are read.
    """
    asked = build(LoadOptions, {"model": model, **options})
    with telling(progress):
        return prepare(asked, registry=registry or default_registry(), machine=machine).load()


def prepare(
    asked: LoadOptions,
    *,
    registry: Registry,
    machine: Machine | None = None,
    picture: Picture | None = None,
    shown: bool = False,
    referring: bool | None = None,
) -> Prepared:
    """Everything that can go wrong before the weights are read, in the order of its cost: downloads come last.

    machine: None finds it without PyTorch, which has its say before anything is fetched or loaded; a guess (see
    :meth:`Machine.detect`) is confirmed then, too.
    picture: the options of a picture that is to be made at once, which are checked too.
    shown: whether a part of another is given with it that is to be filled, without which some models paint nothing.
    referring: whether a model that can be shown that part is shown it; None: if there is one.
    """
    refers = shown if referring is None else referring
    try:
        return _Preparation(asked, registry, machine or Machine.detect(asked.device), picture, shown, refers).run()
    except _OtherMachine as found:
        return _Preparation(asked, registry, found.machine, picture, shown, refers, found.sentence).run()


class _OtherMachine(Exception):
    """PyTorch sees a device of another kind than was guessed, so that all must be decided anew."""

    def __init__(self, machine: Machine, sentence: str) -> None:
        super().__init__(sentence)
        self.machine, self.sentence = machine, sentence


@attrs.define(eq=False)
class _Preparation:
    """One way from options to a plan. What a step finds out, those after it use.

    asked: the options, from :meth:`_keep_to_memory` on with what memory decides.
    machine: from :meth:`_confirm` on as PyTorch sees it.
    machine_note: what there is to say of it.
    in_files: the LoRAs that files of weights say they hold.
    kept_note: what there is to say of weights that stay as a file has them.
    """

    asked: LoadOptions
    registry: Registry
    machine: Machine
    picture: Picture | None
    shown: bool
    referring: bool
    machine_note: str = ""
    kept_note: str = ""
    given: LoadOptions = attrs.field(init=False)
    model: Model = attrs.field(init=False)
    of_files: FromFiles | None = attrs.field(init=False)
    loras: tuple[LoraUse, ...] = attrs.field(init=False)
    lora_files: dict[str, Path] = attrs.field(init=False)
    family: Architecture = attrs.field(init=False)
    replaced: tuple[Any, ...] = attrs.field(init=False)
    in_files: InFiles = attrs.field(init=False)
    folder: Path | None = attrs.field(init=False)
    precision: str = attrs.field(init=False)

    def run(self) -> Prepared:
        """The steps, in the order of their cost."""
        self._find_names()
        self._find_files()
        self.precision = precision_for(self.asked, self.model, self.machine)
        self.given = self.asked
        self._keep_to_memory()
        self._check()
        by_name = self._named_quantization()
        files = self._fetch()
        family = architecture_of(files.folder, self.registry)
        facts = family.facts(files.folder)
        self._check_with(facts)
        self._confirm()
        stored, quantization, quantizer = self._quantization(family, files.folder, by_name)
        kept = self._kept(family, files.folder)
        kernels, attention, attend = self._attention(family, facts)
        prepared = self._prepared(family, files, stored, kept, quantization, quantizer, kernels, attention, attend)
        self._warn_of_memory(files)
        return prepared

    # ------------------------------------------------------------------------------------------ what is on this machine

    def _find_names(self) -> None:
        sampling, decoding = self.picture or (None, None)
        self.asked = located(self.asked)
        self.model = check_names(self.asked, sampling, self.registry, _is_there, decoding=decoding)
        self.of_files = from_files(self.asked, self.registry, whole=True, beside=beside(self.asked))
        if self.of_files is not None:
            self.asked, self.model = self.of_files.asked, self.of_files.model
        self.loras = lora_uses(self.asked, self.model)

    def _find_files(self) -> None:
        """Files that are here are looked at now, and others when they are fetched."""
        if self.of_files is not None:
            self.folder = self.of_files.files.folder
        else:
            self.folder = (
                locate(self.model.base, self.registry, without=self._replacing()) if existing(self.model.base) else None
            )
        self.lora_files = {lora.name: finding.locate(lora.name) for lora in self.loras if existing(lora.name)}
        self.family = expected(self.model, self.registry) if self.of_files is None else self.of_files.family
        self.replaced = find(self.family, self.asked)
        if self.folder is not None:
            self.model = with_settings(self.model, self.folder, self.family)
            self.family.check_replaced(self.replaced, self.folder)
        self.in_files = in_files(self.replaced, self.loras, self.registry)
        if self.in_files.note:
            self.asked = attrs.evolve(self.asked, model_lora=False)
            self.loras = lora_uses(self.asked, self.model)

    def _replacing(self) -> frozenset[str]:
        """The parts that others take the place of, as far as the family is known before the model is here."""
        family = expected(self.model, self.registry)
        return frozenset(part for option, part in family.replaceable.items() if getattr(self.asked, option))

    def _keep_to_memory(self) -> None:
        """What ``vram``, ``ram`` or ``preset`` decides."""
        if not self.asked.bounded:
            return
        self._confirm()  # whose memory and speed decide
        folder = self.folder or shape_folder(self.model, self.registry)
        files = compose(architecture_of(folder, self.registry), folder, self.replaced, weights=False)
        self.asked = within_budget(
            self.asked, self.picture, self.registry, self.machine, self.model, files,
            referring=self.referring, given=self.shown,
        )  # fmt: skip

    def _check(self) -> None:
        check_loading(self.asked, self.machine, self.model)
        if self.picture:
            check_request(
                *self.picture,
                loading=self.asked,
                model=self.model,
                registry=self.registry,
                machine=self.machine,
                precision=self.precision,
            )
        if known := self.folder or self.model.shape:
            self._check_with(architecture_of(Path(known), self.registry).facts(Path(known)))

    def _check_with(self, facts: Facts) -> None:
        """What is wrong with the picture for a model of which so much is known."""
        if self.picture:
            check_guidance(self.picture[0], self.model, facts)
            check_filled(self.asked, fills=facts.fills, given=self.shown)

    def _named_quantization(self) -> tuple[Choice, Any] | None:
        """Tried before anything is fetched, where a mode was named."""
        if self.asked.quantization_mode in ("auto", "none"):
            return None
        return choose_quantization(
            self.asked, self.registry, self.machine, self.precision, lora=bool(self.loras)
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- what must be fetched

    def _confirm(self) -> None:
        """Raises InputError if the device that was asked for is not there, _OtherMachine if another one is."""
        found, sentence = self.machine.confirmed(self.asked.device)
        decides = ("device", "capability", "fast_bfloat16")
        if any(getattr(found, name) != getattr(self.machine, name) for name in decides):
            raise _OtherMachine(found, sentence)
        self.machine = found

    def _fetch(self) -> ModelFiles:
        """The model's whole folder, with the parts in it that were given instead of its own."""
        far = [lora.name for lora in self.loras if lora.name not in self.lora_files]
        if self.folder is None or far:
            self._confirm()
        for name in far:
            self.lora_files[name] = finding.locate(name)
        folder = self.folder
        if folder is None:
            folder = locate(self.model.base, self.registry, without=self._replacing())
            self.model = with_settings(self.model, folder, architecture_of(folder, self.registry))
        family = architecture_of(folder, self.registry)
        if family is not self.family:  # of a model on the Hub it is only known now
            self.replaced = find(family, self.asked)
        files = compose(family, folder, self.replaced)
        files.beneath = self.of_files  # whose folder it leads to
        return files

    # -------------------------------------------------------------------------------------------------- what is chosen

    def _quantization(
        self, family: Architecture, folder: Path, by_name: tuple[Choice, Any] | None
    ) -> tuple[Mapping[str, Stored], Choice, Any]:
        """The parts that are stored quantized, what was chosen, and what does it."""
        from dit360_core.models.weights.store import stored_parts  # imports torch, which nothing above needs

        asked, lora = self.asked, bool(self.loras)
        stored = stored_parts(family, folder)
        if stored:
            check_stored(asked, lora, stored)
            first = next(iter(stored.values()))
            return stored, *choose_stored(first, asked, self.registry, self.machine, self.precision, lora=lora)
        if asked.quantization_mode == "none":
            refuse_without_effect(asked, f"{named('quantization_mode')} is none")
        choice, quantizer = by_name or choose_quantization(
            asked, self.registry, self.machine, self.precision, folder=folder, lora=lora
        )
        return stored, choice, quantizer

    def _kept(self, family: Architecture, folder: Path) -> Mapping[str, Kept]:
        """The parts that stay as their files have them in fewer bits: those that are not to be quantized anew."""
        from dit360_core.models.weights.forms.kept import kept_parts  # imports torch, as above

        asked, found = self.asked, kept_parts(family, folder)
        if asked.quantization_mode not in ("none", "auto"):
            anew = family.quantized_by(asked.quantization_parts)
            found = {part: kept for part, kept in found.items() if part not in anew}
        if self.loras and asked.lora_mode == "fuse" and DENOISER in found:
            self.asked = attrs.evolve(asked, lora_mode="adapter")
            self.kept_note = (
                f"LoRAs stay beside the weights, which {found[DENOISER].file.name} has as {found[DENOISER].form}: "
                "nothing is added to rounded weights"
            )
        return found

    def _attention(self, family: Architecture, facts: Facts) -> tuple[Kernels, Choice, Attend]:
        heads = facts.heads, facts.head_dim
        need = native_need(self.model, self.machine, self.precision, heads, family.longest_prompt)
        kernels = Kernels(self.registry, self.machine, self.asked.strict)
        return kernels, *kernels.choose(self.asked.attention_backend, need)

    def _prepared(
        self,
        family: Architecture,
        files: ModelFiles,
        stored: Mapping[str, Stored],
        kept: Mapping[str, Kept],
        quantization: Choice,
        quantizer: Any,
        kernels: Kernels,
        attention: Choice,
        attend: Attend,
    ) -> Prepared:
        from dit360_core.pipeline.prepared import Prepared  # imports torch, as above

        fused_before = (*remembered_loras(files.folder), *self.in_files.told)
        notes = [
            *([self.machine_note] if self.machine_note else []),
            *slicing_notes(attention, self.registry, self.asked.attention_slice_size),
            *self._fused_twice(fused_before),
            *(note for note in (self.kept_note, self.in_files.note) if note),
            *(self.of_files.notes if self.of_files is not None else ()),
            *files.notes,
        ]
        plan = make_plan(
            self.asked,
            self.machine,
            self.model,
            self.precision,
            attention,
            quantization,
            notes,
            fused_before=fused_before,
            asked=self.given,
        )
        return Prepared(
            plan=plan,
            architecture=family,
            files=files,
            lora_files=self.lora_files,
            kernels=kernels,
            attend=attend,
            quantizer=quantizer,
            stored=stored,
            kept=kept,
            machine=self.machine,
            registry=self.registry,
        )

    def _fused_twice(self, fused_before: Iterable[Mapping[str, Any]]) -> Iterable[str]:
        """Of LoRAs that come on top of others in stored weights."""
        there = " and ".join(str(lora["from"]) for lora in fused_before)
        if there and self.loras:
            more = " and ".join(lora.name for lora in self.loras)
            yield f"{self.asked.model} already holds the LoRA {there}; {more} comes on top of it"

    def _warn_of_memory(self, files: ModelFiles) -> None:
        """Tells, before weights are read, that system memory does not hold them, for which a process is killed."""
        asked = self.asked
        if self.given.bounded:
            return
        stored = bytes_of_weights(files.folder)
        if asked.quantization_mode == "auto" or 4 * stored < free_memory("cpu"):
            return  # in float32 they may take twice as much as in their files
        sampling, decoding = self.picture or (SampleOptions(prompt="any"), DecodeOptions())
        subject = subject_in(
            asked, sampling, decoding, self.registry, self.machine, self.model, files, referring=self.referring,
            given=self.shown,
        )  # fmt: skip
        found = verdict_of(asked, subject, ASSUMED, one(asked, subject, ASSUMED), only_system=True)
        if found.fits is False:
            log.warning("%s", f"The system may end this process: {found.why}. {marked(found.advice(asked))}")


def _is_there(name: str) -> bool:
    return existing(name) is not None


def within_budget(
    asked: LoadOptions,
    picture: Picture | None,
    registry: Registry,
    machine: Machine,
    model: Model,
    files: ModelFiles,
    *,
    referring: bool = False,
    given: bool = False,
) -> LoadOptions:
    """The options with what ``vram`` or ``preset`` decides. Raises InputError if nothing fits.

    picture: what is to be made; None: one of the model's native size.
    files: with the model's configurations.
    referring: the model is shown a picture, too, if it can be.
    given: a part of a picture is given, of which the rest is made.
    """
    sampling, decoding = picture or (SampleOptions(prompt="any"), DecodeOptions())
    subject = subject_in(asked, sampling, decoding, registry, machine, model, files, referring=referring, given=given)

    def usable(options: LoadOptions) -> bool:
        if options.quantization_mode in ("none", "auto"):
            return True
        try:
            choose_quantization(options, registry, machine, subject.precision, lora=subject.lora)
        except BackendUnavailable as error:
            log.info("%s", error.sentence)
            return False
        return True

    found = fit(asked, subject, measure(machine, subject.precision), usable=usable)
    # The decoder, which goes by what is free, keeps to it too.
    return attrs.evolve(found.best.options, vram=f"{found.budget / 2**30:.4g}")
