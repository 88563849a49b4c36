"""Predicted memory against measured, for models, precisions, quantizations, slices, tiles and sizes.

    python bench/prediction.py                 # the table of docs/memory.md, about 20 minutes on two cores
    python bench/prediction.py --only 3        # the first three, and no file

Each combination is a process of its own. Before it loads anything it predicts the most memory of each phase from the
configurations; then it loads the model, reads a prompt, makes two steps and decodes, with the kernel's own record of
the most resident memory set back before each (Linux). CPUs only: on CUDA, ``bench/full_size.py`` does this.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dit360_core.system.machine import Machine
from dit360_core.system.memory import gib, give_back_freed_memory
from peak import in_a_process, memory, reset_peak
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scaled import make_model

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- prediction: begin -->", "<!-- prediction: end -->"
COMBINATIONS: list[dict[str, Any]] = [
    {"model": "tiny", "width": 512},
    {"model": "tiny", "width": 2048, "tiling_level": "recomputed"},
    {"model": "narrow", "width": 1024},
    {"model": "narrow", "width": 1024, "attention_backend": "eager"},
    {"model": "narrow", "width": 1024, "attention_backend": "eager", "attention_slice_size": 256},
    {"model": "narrow", "width": 2048, "precision": "bf16", "tiling_level": "stored"},
    {"model": "middle", "width": 1024},
    {"model": "middle", "width": 1024, "precision": "bf16"},
    {"model": "middle", "width": 1024, "quantization_mode": "int8"},
    {"model": "middle", "width": 1536, "quantization_mode": "int4", "tiling_level": "mixed"},
    {
        "model": "middle",
        "width": 1024,
        "quantization_mode": "fp8",
        "attention_backend": "eager",
        "attention_slice_size": 512,
    },
    {"model": "middle", "width": 1024, "evict": "all", "tiling_mode": "never"},
    {"model": "middle", "width": 1536, "evict": "text", "precision": "bf16"},
    {"model": "wide", "width": 1024, "precision": "bf16"},
    {"model": "wide", "width": 1024, "precision": "bf16", "quantization_mode": "int8", "tiling_level": "recomputed"},
    {"model": "wide", "width": 768, "evict": "all"},
]


def main(only: Annotated[int, typer.Option(help="How many combinations; 0: all, and the document.")] = 0) -> None:
    """Predict and measure all; write docs/memory-cpu.json and the table of docs/memory.md."""
    console = Console()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = COMBINATIONS[:only] if only else COMBINATIONS
        for asked in track(chosen, description="combinations", console=console):
            model = asked["model"]
            where = model if model == "tiny" else str(make_model(Path(folder) / model, model))
            rows.append({"asked": asked, **in_a_process(__file__, {**asked, "model": where})})
            print(json.dumps(rows[-1]), file=sys.stderr)
    table = Table("combination", "phase", "predicted", "measured", "difference", "of the model alone")
    for row in rows:
        if "failed" in row:
            table.add_row(told(row["asked"]), row["failed"])
        for phase in row.get("phases", []):
            table.add_row(told(row["asked"]), phase["name"], *cells(phase, row["held"]))
    console.print(table)
    if only:
        return
    machine = Machine.detect("cpu")
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.device_name or machine.platform,
        "threads": torch.get_num_threads(),
        "versions": dict(machine.versions),
        "rows": rows,
    }
    (DOCS / "memory-cpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_figures(report)


def told(asked: dict[str, Any]) -> str:
    """A combination in one line."""
    return ", ".join([asked["model"], *(f"{name} {value}" for name, value in asked.items() if name != "model")])


def cells(phase: dict[str, Any], held: int) -> list[str]:
    """Predicted, measured, their difference, and that without what the process held before."""
    predicted, measured = phase["predicted"], phase["measured"]
    return [
        gib(predicted),
        gib(measured),
        f"{predicted / measured - 1:+.1%}",
        f"{(predicted - held) / max(1, measured - held) - 1:+.0%}",
    ]


def write_figures(report: dict[str, Any]) -> None:
    """The table of the largest phase of each combination, into docs/memory.md."""
    lines = [
        f"{report['date']}, {report['machine']}, {report['threads']} threads, torch {report['versions']['torch']}.",
        "",
        "| combination | largest phase | predicted | measured | difference | of the model alone |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        phase = max(row["phases"], key=lambda phase: phase["measured"])
        lines.append(f"| {told(row['asked'])} | {' | '.join([phase['name'], *cells(phase, row['held'])])} |")
    page = DOCS / "memory.md"
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text("\n".join([before + BEGIN, *lines, END]) + after, encoding="utf-8")


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """One combination: predicted, then measured."""
    from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
    from dit360_core.pipeline.loading import prepare
    from dit360_core.planning.budget import one
    from dit360_core.planning.forecast import subject_of
    from dit360_core.planning.speed import ASSUMED
    from dit360_core.plugins.registry import default_registry

    def of(cls: Any) -> dict[str, Any]:
        names = {field.name for field in cls.__attrs_attrs__}
        return {name: value for name, value in asked.items() if name in names}

    device = torch.device("cpu")
    loading = build(LoadOptions, {**of(LoadOptions), "device": "cpu", "precision": asked.get("precision", "fp32")})
    picture = {**of(SampleOptions), "prompt": "a castle above a meadow at sunset", "steps": 2, "seed": 1}
    picture |= {"attention_backend": "pipeline", "attention_slice_size": -1}
    sampling, decoding = build(SampleOptions, picture), build(DecodeOptions, of(DecodeOptions))
    registry = default_registry()
    # What is imported and tried on the way is not the model's.
    prepare(loading, registry=registry, picture=(sampling, decoding))
    warm(loading.precision)
    one(loading, subject_of(loading, sampling, decoding, registry), ASSUMED)
    give_back_freed_memory("cpu")
    subject = subject_of(loading, sampling, decoding, registry)
    predicted = {phase.name: phase.total for phase in one(loading, subject, ASSUMED).prediction.phases}
    pipe = prepare(loading, registry=registry, picture=(sampling, decoding)).load()
    found: list[dict[str, Any]] = []

    def measured(name: str, run: Any) -> Any:
        reset_peak(device)
        result = run()
        found.append({"name": name, "predicted": predicted[name], "measured": memory(device)[1]})
        return result

    conditioning = measured("text encoding", lambda: pipe.encode(picture["prompt"]))
    sampled = measured("step", lambda: pipe.sample(conditioning, width=asked["width"], steps=2, seed=1))
    measured("decode", lambda: pipe.decode(sampled, **of(DecodeOptions)))
    return {"held": subject.held, "phases": found}


def warm(precision: str) -> None:
    """Starts threads and libraries that a first picture would start; kernels of bf16 are 90 MiB of code."""
    import dit360_core

    dit360_core.load("tiny", device="cpu", precision=precision).generate("a castle", width=64, steps=1, seed=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
