"""A model is quantized once and kept, so that the next start reads only the small weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dit360_core.errors import InputError, ModelError, named, remedy, setting
from dit360_core.models.lora.fusing import Applied
from dit360_core.models.settings import SETTINGS, settings_of
from dit360_core.models.weights.store import copy_rest, write_part
from dit360_core.models.weights.stream import survey
from dit360_core.options import QUANTIZE_OPTIONS, LoadOptions, build, changed_options, options_of
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.prepared import Prepared, state_of
from dit360_core.pipeline.signature import takes
from dit360_core.pipeline.state import State
from dit360_core.pipeline.writing import write_file
from dit360_core.planning.written import check_target
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.atomic import new_folder
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import explain_full_memory

Progress = Callable[[str, int, int], None]
"""Called after each layer with (part, layers done, layers in all)."""


@takes(LoadOptions, leave_out=tuple(name for name in options_of(LoadOptions) if name not in QUANTIZE_OPTIONS))
def quantize(
    model: str,
    output: str | Path,
    *,
    registry: Registry | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> State:
    """Writes a model, quantized by ``quantization_mode`` and with its LoRA fused, into a new folder or file.

    A folder can be given as ``model`` from then on. Layers are read, quantized and written one after the other: one
    file of 2 GiB and one layer are in memory at a time. Returns what was done; ``quantized`` in it tells of each layer.

    A file (``.safetensors``, and ``.gguf`` with its plugin) holds one part, the transformer unless
    ``quantization_parts`` names the text encoder, in the names of the model's makers, so that ComfyUI and others read
    it. Its modes are those of such files, such as fp8 or Q4_K; none writes it in full. One tensor is in memory at a
    time.

    model: a known name, a diffusers folder, a Hub id, or a file of weights.
    output: folder or file to make.
    registry, machine: as for :func:`dit360_core.load`.
    progress: called after each layer with (part, layers done, layers in all).

    Raises InputError (the folder exists, no mode given), ModelError, BackendUnavailable; and Dit360Error if writing
    fails, after which nothing is left behind.
    """
    asked = build(LoadOptions, {"model": model, **options})
    without = sorted(set(changed_options(asked)) - QUANTIZE_OPTIONS)
    if without:
        raise InputError(
            f"{', '.join(map(named, without))} has no effect on a model that is stored; give it when loading."
        )
    if asked.lora_mode == "adapter":
        raise InputError(
            f"{setting('lora_mode', 'adapter')} cannot be stored; {remedy('leave_out')} to fuse the LoRA, or give it "
            "when loading."
        )
    target, registry = Path(output), registry or default_registry()
    if (form := check_target(target, asked.quantization_mode, registry)) is not None:
        return write_file(asked, target, form, registry=registry, machine=machine, progress=progress)
    if asked.quantization_mode == "none":
        raise InputError(
            f"{named('quantization_mode')} is none, so there is nothing to store; name one, such as int8 or int4."
        )
    prepared = prepare(asked, registry=registry, machine=machine)
    if prepared.stored:
        given = {part: getattr(asked, option) for option, part in prepared.architecture.replaceable.items()}
        whole = next((name for part, name in given.items() if name and part in prepared.stored), model)
        raise InputError(f"{whole} is stored quantized already; give the original model.")
    if prepared.quantizer is None:
        raise InputError(f"{model} fits in full precision here, so auto would store nothing; name a mode.")
    if not hasattr(prepared.quantizer, "restore"):
        origin = prepared.plan.quantization.origin
        raise InputError(f"The quantization {origin} cannot be stored: it does not say how it is read back.")
    with new_folder(target) as folder, explain_full_memory(f"quantizing {model}", prepared.plan.device):
        try:
            return _write(prepared, folder, progress)
        except SafetensorError as error:  # of a full disk
            raise OSError(str(error)) from error


def _write(prepared: Prepared, folder: Path, progress: Progress | None) -> State:
    plan, family = prepared.plan, prepared.architecture
    loras = prepared.loras()
    how = prepared.quantizing(loras, torch.device("cpu"))
    _check_all_stored(loras, how.parts, plan.options.quantization_parts)
    parts = survey(prepared.folder, how)
    copy_rest(family, prepared.folder, folder, parts, torch_dtype(prepared.plan.precision))
    dtype = torch_dtype(plan.precision)
    converted = tuple(
        write_part(part, how, dtype, folder / name, plan.quantization, progress) for name, part in parts.items()
    )
    state = state_of(plan, loras, converted)
    _remember(state, folder)
    return state


def _check_all_stored(loras: Iterable[Applied], parts: Collection[str], asked: str) -> None:
    """Raises an error for a LoRA that changes what is stored as it was.

    parts: those that are quantized.
    """
    for one in loras:
        for name in one.lora.layers:
            part = one.lora.architecture.part(name)
            if not part.option:
                raise ModelError(
                    f"{one.lora.file} also changes {part.short}, which is not stored; give it when loading."
                )
            if name not in parts:
                raise InputError(
                    f"{setting('quantization_parts', asked)} would store the {part.short} without the LoRA "
                    f"{one.lora.file}; quantize both."
                )


def _remember(state: State, folder: Path) -> None:
    plan = state.plan
    made_from = plan.options.model if plan.model.name == "given" else plan.model.name
    told = settings_of(plan.model, made_from, state.loras_as_dicts(), plan.replaced())
    (folder / SETTINGS).write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")
