"""Looks at the machine, the models, the plugins and the kernels, and says what needs attention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from dit360_core.cli import profile
from dit360_core.cli.output import apart_from_stdout, harmless
from dit360_core.cli.wording import worded
from dit360_core.errors import InputError, ModelError, Sentence, marked
from dit360_core.models.families import check_model, model_files
from dit360_core.models.weights.files import find_lora_file
from dit360_core.models.weights.hub import LORA_FILES, cached
from dit360_core.planning.isolation import ending_plugins, without
from dit360_core.planning.kernels import try_kernels
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import DISABLED, Registry, default_registry
from dit360_core.system.machine import Machine
from dit360_core.system.naming import existing, looks_like_hub_id


def run(console: Console, as_json: bool, config: Path | None = None, commands: Mapping[str, Any] | None = None) -> bool:
    """Prints a report; whether nothing in it needs attention.

    config: the file of defaults that was asked for; None: the user's own.
    commands: whose options may stand there; None: the file is only read.
    """
    with apart_from_stdout():
        lost = ending_plugins()
        with without(lost):
            report = examine(default_registry(), Machine.detect(), config, commands)
        report["advice"][:0] = [
            f"The plugin {name} ends the program when it is imported or asked ({how}); update or uninstall it, or "
            f"set {DISABLED}={name}."
            for name, how in lost.items()
        ]
    if as_json:
        typer.echo(harmless(json.dumps(report, indent=2, ensure_ascii=False)))
    else:
        for name, value in _lines(report):
            typer.echo(harmless(f"{name:<14} {value}"))
        for advice in report["advice"]:
            console.print(harmless(f"→ {worded(advice)}"), style="yellow", markup=False, soft_wrap=True)
        if not report["advice"]:
            typer.echo("Nothing needs attention.")
    return not report["advice"]


def examine(
    registry: Registry, machine: Machine, config: Path | None = None, commands: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Facts about the machine and the installed models, and ``advice``: one sentence for each thing to do.

    config, commands: as for ``run``.
    """
    advice = [f"{failure}; update or uninstall {failure.distribution}." for failure in registry.failures]
    kernels = try_kernels(registry, machine, core=True)
    advice += [
        f"The attention backend {address} is broken: {marked(reason.sentence)}; reinstall what it needs for this "
        f"PyTorch, or set DIT360_DISABLED_PLUGINS={address.partition(':')[0]}."
        for address, verdict in kernels.items()
        for reason in verdict.reasons
        if reason.code in _BROKEN and not _left_out_of_pytorch(address)
    ]
    # PyTorch's own attention goes everywhere, so that only a device that PyTorch does not see speaks against it.
    own = kernels.get("dit360-core:sdpa")
    advice += [
        f"{reason.told.rstrip('.')}; update the GPU's driver, or install a PyTorch that fits it."
        for reason in (own.reasons if own is not None and machine.guessed else ())
        if reason.code == "device"
    ]
    models = {}
    for entry in registry.entries("model"):
        state, todo = _model_state(entry.offer)
        models[entry.name] = state
        advice += todo
    defaults, todo = _defaults(config, commands)
    advice += todo
    return {
        "device": machine.device,
        "device_name": machine.device_name,
        "device_memory": machine.device_memory,
        "system_memory": machine.system_memory,
        "cpu_count": machine.cpu_count,
        "fast_bfloat16": machine.fast_bfloat16,
        "platform": machine.platform,
        "python": machine.python,
        "versions": dict(machine.versions),
        "models": models,
        "attention": {address: "; ".join(map(str, verdict.reasons)) or "works" for address, verdict in kernels.items()},
        "disabled": list(registry.disabled),
        "defaults": defaults,
        "advice": list(map(Sentence, advice)),
    }


def _defaults(config: Path | None, commands: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """The file of defaults and how many it has, and what is wrong with it; empty: there is none.

    config: the file that was asked for; None: the user's own.
    """
    try:
        found = profile.read(config)
        if found is None:
            return "", []
        path, told = found
        if commands is not None:
            profile.defaults(path, told, commands)
    except InputError as error:
        return str(error.sentence), [error.sentence]
    count = sum(len(one) if isinstance(one, Mapping) else 1 for one in told.values())
    return f"{path} ({count} option{'' if count == 1 else 's'})", []


_BROKEN = ("import_failed", "probe_failed", "offer_failed")
"""Reasons that tell of a defect, not of something that this machine lacks."""


def _left_out_of_pytorch(address: str) -> bool:
    # Not every build of PyTorch has every kernel, and nobody misses one that is not asked for by name.
    return address.startswith("dit360-core:sdpa-")


def _model_state(model: Model) -> tuple[str, list[str]]:
    """Whether a model is on this machine, without asking the network, and what is broken about it."""
    folder = existing(model.base) or cached(model.base, model_files())
    lora = (existing(model.lora) or cached(model.lora, LORA_FILES)) if model.lora else None
    if folder is None:
        if not looks_like_hub_id(model.base):
            return f"missing ({model.base})", [f"There is no folder {model.base}; reinstall what brought this model."]
        from huggingface_hub import get_token

        token = "a token is set" if get_token() else "no token is set: 'hf auth login'"
        return f"not downloaded ({model.base}; {token})", []
    try:
        check_model(folder)
        if lora is not None:
            find_lora_file(lora)
    except ModelError as error:
        return "damaged", [error.sentence]
    if model.lora and lora is None:
        return f"base ready ({folder}), LoRA not downloaded ({model.lora})", []
    return f"ready ({folder})", []


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    gib = 2**30
    device = report["device"] + (f", {report['device_name']}" if report["device_name"] else "")
    if report["device_memory"]:
        device += f", {report['device_memory'] / gib:.1f} GiB"
    lines = [
        ("device", device),
        ("memory", f"{report['system_memory'] / gib:.1f} GiB, {report['cpu_count']} CPUs"),
        ("bfloat16", "in hardware" if report["fast_bfloat16"] else "not in hardware: slower than float32"),
        ("system", f"{report['platform']}, Python {report['python']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
    ]
    lines.append(("defaults", report["defaults"] or f"none; a file {profile.usual_place()} would be read"))
    lines += [(f"model {name}", state) for name, state in report["models"].items()]
    states = list(report["attention"].values())
    unusable = len(states) - states.count("works")
    more = f", {unusable} cannot be used here ('dit360 backends' tells why)" if unusable else ""
    lines.append(("attention", f"{states.count('works')} backends work{more}"))
    if report["disabled"]:
        lines.append(("switched off", ", ".join(report["disabled"])))
    return lines
