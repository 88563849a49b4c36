"""From load options to a pipeline: first everything that can go wrong cheaply, then the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import BackendUnavailable
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.prepared import Prepared
from dit360_core.pipeline.signature import takes
from dit360_core.planning.checks import check_guidance, check_loading, check_names, check_request, refuse_without_effect
from dit360_core.planning.forecast import shape_folder
from dit360_core.planning.kernels import Kernels, native_need, slicing_notes
from dit360_core.planning.loras import wanted
from dit360_core.planning.plan import make_plan
from dit360_core.planning.precision import precision_for
from dit360_core.planning.quantization import check_stored, choose_quantization, choose_stored
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.machine import Machine

log = logging.getLogger("dit360")


@takes(LoadOptions)
def load(
    model: str = "tiny", *, registry: Registry | None = None, machine: Machine | None = None, **options: Any
) -> Pipeline:
    """Loads a model and decides which backends it runs on.

    Raises InputError (bad option, unknown name), ModelError (files), BackendUnavailable (reasons of every candidate),
    all before the weights are read.
    """
    asked = build(LoadOptions, {"model": model, **options})
    return prepare(asked, registry=registry or default_registry(), machine=machine).load()


def prepare(
    asked: LoadOptions,
    *,
    registry: Registry,
    machine: Machine | None = None,
    picture: tuple[SampleOptions, DecodeOptions] | None = None,
) -> Prepared:
    """Everything that can go wrong before the weights are read, in the order of its cost: downloads come last.

    machine: None finds it without PyTorch, which has its say before anything is fetched or loaded; a guess (see
    :meth:`Machine.detect`) is confirmed then, too. picture: the options of a picture that is to be made at once, which
    are checked too.
    """
    try:
        return _prepared(asked, registry, machine or Machine.detect(asked.device), picture)
    except _OtherMachine as found:
        return _prepared(asked, registry, found.machine, picture, found.sentence)


class _OtherMachine(Exception):
    """PyTorch sees a device of another kind than was guessed, so that all must be decided anew."""

    def __init__(self, machine: Machine, sentence: str) -> None:
        super().__init__(sentence)
        self.machine, self.sentence = machine, sentence


def _confirmed(guess: Machine, device: str) -> Machine:
    """Raises InputError if the device that was asked for is not there, _OtherMachine if another one is."""
    found, sentence = guess.confirmed(device)
    decides = ("device", "capability", "fast_bfloat16")
    if any(getattr(found, name) != getattr(guess, name) for name in decides):
        raise _OtherMachine(found, sentence)
    return found


def _prepared(
    asked: LoadOptions,
    registry: Registry,
    machine: Machine,
    picture: tuple[SampleOptions, DecodeOptions] | None,
    note: str = "",
) -> Prepared:
    """note: what there is to say of the machine."""
    from dit360_core.models.flux import composed
    from dit360_core.models.flux import load as model_files
    from dit360_core.models.flux.folder import existing, remembered_loras, with_settings
    from dit360_core.models.lora import fitting as lora_files

    model = check_names(
        asked,
        picture[0] if picture else None,
        registry,
        lambda name: existing(name) is not None,
        decoding=picture[1] if picture else None,
    )
    loras = wanted(asked, model)
    folder = model_files.locate(model.base) if existing(model.base) else None
    located = {lora.name: lora_files.locate(lora.name) for lora in loras if existing(lora.name)}
    replaced = composed.find(asked)
    if folder is not None:
        model = with_settings(model, folder)
        composed.check_fits(replaced, folder)

    precision = precision_for(asked, model, machine)
    given = asked
    if asked.bounded:
        machine = _confirmed(machine, asked.device)  # whose memory and speed decide
        shaped = composed.compose(folder or shape_folder(model), replaced, weights=False)
        asked = within_budget(asked, picture, registry, machine, model, shaped.folder)
    check_loading(asked, machine, model)
    if picture:
        check_request(*picture, loading=asked, model=model, registry=registry, machine=machine, precision=precision)
    chosen = None
    if asked.quantization_mode not in ("auto", "none"):
        chosen = choose_quantization(asked, registry, machine, precision, lora=bool(loras))
    far = [lora.name for lora in loras if lora.name not in located]
    if folder is None or far:
        machine = _confirmed(machine, asked.device)
    for name in far:
        located[name] = lora_files.locate(name)
    if folder is None:
        folder = model_files.locate(model.base)
        model = with_settings(model, folder)
    whole = composed.compose(folder, replaced)
    folder = whole.folder

    heads, head_dim, takes_guidance = model_files.transformer_shape(folder)
    if picture:
        check_guidance(picture[0], takes_guidance)

    machine = _confirmed(machine, asked.device)
    from dit360_core.models.weights.store import stored_parts  # imports torch, which nothing above needs

    stored = stored_parts(folder)
    if stored:
        check_stored(asked, bool(loras), stored)
        first = next(iter(stored.values()))
        quantization, quantizer = choose_stored(first, asked, registry, machine, precision, lora=bool(loras))
    else:
        if asked.quantization_mode == "none":
            refuse_without_effect(asked, "quantization_mode is none")
        quantization, quantizer = chosen or choose_quantization(
            asked, registry, machine, precision, folder=folder, lora=bool(loras)
        )
    fused_before = remembered_loras(folder)
    twice = []
    if loras and fused_before:
        held, more = (" and ".join(map(str, names)) for names in (
            [lora["from"] for lora in fused_before], [lora.name for lora in loras]
        ))  # fmt: skip
        twice.append(f"{asked.model} already holds the LoRA {held}; {more} comes on top of it")
    need = native_need(model, machine, precision, heads, head_dim)
    kernels = Kernels(registry, machine, asked.strict)
    attention, attend = kernels.choose(asked.attention_backend, need)
    prepared = Prepared(
        plan=make_plan(
            asked,
            machine,
            model,
            precision,
            attention,
            quantization,
            [
                *([note] if note else []),
                *slicing_notes(attention, registry, asked.attention_slice_size),
                *twice,
                *whole.notes,
            ],
            fused_before=fused_before,
            asked=given,
        ),
        folder=folder,
        lora_files=located,
        kernels=kernels,
        attend=attend,
        quantizer=quantizer,
        stored=stored,
        machine=machine,
        registry=registry,
    )
    whole.kept_by(prepared)  # which the pipeline keeps, to read parts again
    if not given.bounded and (too_much := _too_much(asked, picture, registry, machine, model, folder)):
        log.warning("%s", too_much)
    return prepared


def _too_much(
    asked: LoadOptions,
    picture: tuple[SampleOptions, DecodeOptions] | None,
    registry: Registry,
    machine: Machine,
    model: Model,
    folder: Path,
) -> str | None:
    """What to warn of before weights are read that system memory does not hold, for which a process is killed."""
    from dit360_core.planning.budget import one
    from dit360_core.planning.forecast import subject_in
    from dit360_core.planning.speed import ASSUMED
    from dit360_core.planning.verdict import verdict_of
    from dit360_core.system.memory import free_memory

    stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    if asked.quantization_mode == "auto" or 4 * stored < free_memory("cpu"):
        return None  # in float32 they may take twice as much as in their files
    sampling, decoding = picture or (SampleOptions(prompt="any"), DecodeOptions())
    subject = subject_in(asked, sampling, decoding, registry, machine, model, folder)
    found = verdict_of(asked, subject, ASSUMED, one(asked, subject, ASSUMED), only_system=True)
    if found.fits is not False:
        return None
    return f"The system may end this process: {found.why}. {found.advice(asked)}"


def within_budget(
    asked: LoadOptions,
    picture: tuple[SampleOptions, DecodeOptions] | None,
    registry: Registry,
    machine: Machine,
    model: Model,
    folder: Path,
) -> LoadOptions:
    """The options with what ``vram`` or ``preset`` decides. Raises InputError if nothing fits.

    picture: what is to be made; None: one of the model's native size.
    """
    from dit360_core.planning.budget import fit
    from dit360_core.planning.forecast import subject_in
    from dit360_core.planning.speed import measure

    sampling, decoding = picture or (SampleOptions(prompt="any"), DecodeOptions())
    subject = subject_in(asked, sampling, decoding, registry, machine, model, folder)

    def usable(options: LoadOptions) -> bool:
        if options.quantization_mode in ("none", "auto"):
            return True
        try:
            choose_quantization(options, registry, machine, subject.precision, lora=subject.lora)
        except BackendUnavailable as error:
            log.info("%s", error)
            return False
        return True

    found = fit(asked, subject, measure(machine, subject.precision), usable=usable)
    # The decoder, which goes by what is free, keeps to it too.
    return attrs.evolve(found.best.options, vram=f"{found.budget / 2**30:.4g}")
