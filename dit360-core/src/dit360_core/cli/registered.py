"""``dit360 backends``: every offer of every plugin, whether it can be used here, and if not, why and what helps."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dit360_core.cli.output import told

if TYPE_CHECKING:
    from dit360_core.machine import Machine
    from dit360_core.offers import Model, Need
    from dit360_core.registry import Registry


def backends(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List every backend, scheduler, tiling and model that is installed, and why not if one cannot be used here."""
    # The report says itself which plugins failed; what they print while they are looked at is no part of it.
    with told(logging.ERROR):
        from dit360_core.machine import Machine
        from dit360_core.registry import default_registry

        with contextlib.redirect_stdout(sys.stderr):
            report = listing(default_registry(), Machine.detect())
        if as_json:
            typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            _print(report)


def listing(registry: Registry, machine: Machine) -> dict[str, Any]:
    """All offers with their verdicts, all plugin failures, all plugins that were switched off.

    Attention kernels of plugins that have nothing against this machine are loaded and tried on small data, for which
    torch is imported; what the core itself offers is known to work.
    """
    from dit360_core.hookspecs import KINDS
    from dit360_core.plan import judge, try_out
    from dit360_core.registry import CORE

    offers = []
    for kind in KINDS:
        need = _typical_need(kind, machine)
        for entry in sorted(registry.entries(kind), key=lambda e: (-e.offer.priority, e.name)):
            reasons = judge(entry, machine, need)
            if kind == "attention" and need is not None and entry.distribution != CORE and not reasons:
                from dit360_core.probe import probe_attention

                _, reasons = try_out(entry, machine, need, lambda offer: offer.load(), probe_attention)
            offers.append(
                {
                    "kind": kind,
                    "name": entry.name,
                    "distribution": entry.distribution,
                    "version": entry.version,
                    "priority": entry.offer.priority,
                    "summary": entry.offer.summary,
                    "available": not reasons,
                    "reasons": [attrs.asdict(reason) for reason in reasons],
                }
            )
    return {
        "device": machine.device,
        "offers": offers,
        "failures": [{**attrs.asdict(failure), "sentence": str(failure)} for failure in registry.failures],
        "disabled": list(registry.disabled),
    }


def _typical_need(kind: str, machine: Machine) -> Need | None:
    """What DiT360 itself would ask of a backend: 24 heads of 128 over a 2048×1024 picture."""
    from dit360_core.attention import native_need
    from dit360_core.offers import Model, QuantizationNeed, SchedulingNeed, TilingNeed
    from dit360_core.options import LoadOptions
    from dit360_core.precision import precision_for

    model: Model = Model(name="dit360", api=1, base="", width=2048, height=1024)
    precision = precision_for(LoadOptions(), model, machine)
    if kind == "attention":
        return native_need(model, machine, precision, heads=24, head_dim=128)
    if kind == "quantization":
        return QuantizationNeed(device=machine.device, dtype=precision)
    if kind == "scheduler":
        return SchedulingNeed(steps=model.steps, tokens=8320)
    if kind == "tiling":
        return TilingNeed(device=machine.device, dtype=precision, width=model.width, height=model.height)
    return None


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Without markup: "[extra]" in the hint "pip install library[extra]" is no style.
    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "from", "here", "what it is, or why not"):
        table.add_column(column, overflow="fold")
    last = None
    for offer in report["offers"]:
        if last not in (None, offer["kind"]):
            table.add_row()
        why = "\n".join(f"{r['sentence']}" + (f"\n→ {r['hint']}" if r["hint"] else "") for r in offer["reasons"])
        table.add_row(
            offer["kind"] if offer["kind"] != last else "",
            offer["name"],
            f"{offer['distribution']} {offer['version']}",
            "yes" if offer["available"] else "no",
            why or offer["summary"],
            style=None if offer["available"] else "yellow",
        )
        last = offer["kind"]
    console.print(table)
    for failure in report["failures"]:
        console.print(
            f"\nA plugin failed: {failure['sentence']}",
            style="yellow",
            soft_wrap=True,
        )
    if report["disabled"]:
        console.print(f"\nSwitched off by DIT360_DISABLED_PLUGINS: {', '.join(report['disabled'])}", soft_wrap=True)
