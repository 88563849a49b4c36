"""``dit360 doctor``: what this machine has, which models are at hand, and what to do about what is wrong."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit360_core.cli.output import told

if TYPE_CHECKING:
    from dit360_core.machine import Machine
    from dit360_core.registry import Registry


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check this machine: device, memory, versions, models, plugins. Exit code 1 if something needs attention."""
    with told(logging.ERROR) as console:
        from dit360_core.machine import Machine
        from dit360_core.registry import default_registry

        with contextlib.redirect_stdout(sys.stderr):
            report = examine(default_registry(), Machine.detect())
        if as_json:
            typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            for name, value in _lines(report):
                typer.echo(f"{name:<14} {value}")
            for advice in report["advice"]:
                console.print(f"→ {advice}", style="yellow", markup=False, soft_wrap=True)
            if not report["advice"]:
                typer.echo("Nothing needs attention.")
        if report["advice"]:
            raise typer.Exit(1)


def examine(registry: Registry, machine: Machine) -> dict[str, Any]:
    """Facts about the machine and the installed models, and ``advice``: one sentence for each thing to do."""
    advice = [f"{failure}; update or uninstall {failure.distribution}." for failure in registry.failures]
    models = {}
    for entry in registry.entries("model"):
        state, todo = _model_state(entry.offer.base)
        models[entry.name] = state
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
        "disabled": list(registry.disabled),
        "advice": advice,
    }


def _model_state(base: str) -> tuple[str, list[str]]:
    """Whether a model is on this machine, without asking the network, and what is broken about it."""
    from pathlib import Path

    from dit360_core.errors import ModelError
    from dit360_core.flux.files import check_model_folder

    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import get_token, try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            index = try_to_load_from_cache(base, "model_index.json")
        except HFValidationError:
            return f"missing ({base})", [f"There is no folder {base}; reinstall what brought this model."]
        if not isinstance(index, str):
            token = "a token is set" if get_token() else "no token is set: 'hf auth login'"
            return f"not downloaded ({base}; {token})", []
        folder = Path(index).parent
    try:
        check_model_folder(folder)
    except ModelError as error:
        return "damaged", [str(error)]
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
    lines += [(f"model {name}", state) for name, state in report["models"].items()]
    if report["disabled"]:
        lines.append(("switched off", ", ".join(report["disabled"])))
    return lines
