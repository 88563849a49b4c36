"""The baseline and every control on and off, as documents: docs/benchmarks/phase4_baseline.md and phase5.md.

    python bench/phases.py baseline            # 2048×1024, 50 steps, eager, no tiling: minutes for each picture
    python bench/phases.py baseline --model narrow --steps 4
    python bench/phases.py controls            # each control against one baseline, paired, medians
    python bench/phases.py controls --model middle

Everything is measured by ``dit360_core.cli.benching.comparing``, which ``dit360 bench`` runs for users:
configurations in processes of their own, in turn, round by round.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from dit360_core.cli.benching.comparing import measure
from dit360_core.cli.benching.varying import Configuration, configurations
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build
from dit360_core.plugins.registry import default_registry
from dit360_core.system.memory import gib
from rich.console import Console
from scaled import SIZES, make_model

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PROMPT = "a castle above a meadow at sunset"
BASELINE: dict[str, Any] = {
    "width": 2048, "height": 1024, "steps": 50, "guidance": 3.0, "scheduler_type": "flow_match",
    "timestep_schedule": "linear", "attention_backend": "eager", "tiling_mode": "never", "seed": 1,
}  # fmt: skip
"""The settings to which later phases compare."""
CONTROLS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # what they start from, and each change of it
    "attention": ({"attention_backend": "eager"}, ["attention_slice_size=1024,256", "attention_backend=sdpa"]),
    "wrapping": ({}, ["circular_padding=0", "circular_mode=bias", "circular_padding=10"]),
    "quantization": ({}, ["quantization_mode=int8,fp8,int8-bnb,int4", "precision=bf16"]),
    "memory": ({}, ["evict=text,all", "offload=disk", "compile_blocks=true"]),
    "decoding": ({"tiling_mode": "never"}, ["tiling_mode=always", "tiling_mode=auto+tiling_level=mixed,recomputed"]),
}
SIZES_OF: dict[str, dict[str, Any]] = {
    "tiny": {"width": 1024, "steps": 6},
    "middle": {"width": 512, "steps": 3},
}
app = typer.Typer()


def compared(model: str, changes: Mapping[str, Any], vary: list[str]) -> list[Configuration]:
    """A baseline and what is compared with it."""

    def of(cls: Any) -> dict[str, Any]:
        names = {field.name for field in cls.__attrs_attrs__}
        return {name: value for name, value in changes.items() if name in names}

    baseline = Configuration(
        loading=build(LoadOptions, {"precision": "fp32", **of(LoadOptions), "model": model, "strict": True}),
        sampling=build(
            SampleOptions,
            {"prompt": PROMPT, "seed": 1, **{k: v for k, v in of(SampleOptions).items() if "attention" not in k}},
        ),
        decoding=build(DecodeOptions, of(DecodeOptions)),
    )
    joined = [one for text in vary for one in _joined(text)]
    return configurations(baseline, joined, default_registry())


def _joined(text: str) -> Iterable[str]:
    """``a=1+b=2,3`` as two joined variations."""
    if "+" not in text:
        yield text
        return
    head, _, last = text.rpartition("+")
    name, _, values = last.partition("=")
    for value in values.split(","):
        yield f"{head}+{name}={value}"


@app.command()
def baseline(
    model: Annotated[str, typer.Option(help="Known name, or one of: " + ", ".join(SIZES))] = "tiny",
    rounds: Annotated[int, typer.Option()] = 1,
    steps: Annotated[int, typer.Option(help="Fewer, where 50 take too long.")] = 50,
    small: Annotated[bool, typer.Option("--small", help="Whether this works: 128×64, 2 steps, no document.")] = False,
) -> None:
    """Measure the baseline and write phase4_baseline.md."""
    with tempfile.TemporaryDirectory() as folder:
        settings = BASELINE | {"steps": steps} | ({"width": 128, "height": 64, "steps": 2} if small else {})
        report = measure(compared(_model(model, folder), settings, []), rounds)
    if not small:
        _keep("phase4_baseline", model, report)
        _write("phase4_baseline", _baseline_page)
    Console().print_json(data=report["configurations"][0]["medians"])


@app.command()
def controls(
    model: Annotated[str, typer.Option(help="Known name, or one of: " + ", ".join(SIZES))] = "tiny",
    rounds: Annotated[int, typer.Option()] = 5,
    only: Annotated[str, typer.Option(help="One group: " + ", ".join(CONTROLS), show_default="all")] = "",
    small: Annotated[bool, typer.Option("--small", help="Whether this works: 128×64, 2 steps, no document.")] = False,
) -> None:
    """Measure every control against its baseline and write phase5.md."""
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        where = _model(model, folder)
        for name, (start, vary) in CONTROLS.items():
            if only and name != only:
                continue
            size = {"width": 128, "steps": 2} if small else SIZES_OF.get(model, SIZES_OF["tiny"])
            Console(stderr=True).print(f"{model}: {name}")
            reports[name] = measure(compared(where, {**size, **start}, vary), rounds)
    if not small:
        _keep("phase5", model, reports)
        _write("phase5", _controls_page)
    for name, report in reports.items():
        Console().print("\n".join(_rows(name, report)), markup=False)


def _model(name: str, folder: str) -> str:
    return str(make_model(Path(folder) / name, name)) if name in SIZES else name


# -------------------------------------------------------------------------------------------------------- documents


def _keep(page: str, model: str, report: Mapping[str, Any]) -> None:
    DOCS.mkdir(exist_ok=True)
    file = DOCS / f"{page}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    # Groups that were measured alone take the place of their earlier selves.
    kept[model] = {**kept.get(model, {}), **_short(report)}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(report: Any) -> Any:
    """Without what the options and plans were in full, which name folders of the machine."""
    if isinstance(report, Mapping):
        return {name: _short(value) for name, value in report.items() if name not in ("used", "baseline")}
    if isinstance(report, list):
        return [
            _short({k: v for k, v in one.items() if k != "settings"}) if isinstance(one, dict) else one
            for one in report
        ]
    return report


def _write(page: str, make: Any) -> None:
    """Replaces what stands after the line that begins the figures."""
    kept = json.loads((DOCS / f"{page}.json").read_text(encoding="utf-8"))
    file = DOCS / f"{page}.md"
    mark = "<!-- figures: written by bench/phases.py -->"
    text = file.read_text(encoding="utf-8").partition(mark)[0]
    file.write_text(text + mark + "\n\n" + "\n".join(make(kept)) + "\n", encoding="utf-8")


def _environment(report: Mapping[str, Any]) -> str:
    about = report["environment"]
    machine = about["machine"]
    versions = machine["versions"]
    return (
        f"{report['date'][:10]}, {machine['device_name']}, {machine['device']}, {about['threads']} threads, "
        f"{machine['platform'].split('-')[0]}, torch {versions['torch']}, diffusers {versions['diffusers']}, "
        f"dit360-core {versions['dit360-core']}"
    )


def _baseline_page(kept: Mapping[str, Any]) -> Iterable[str]:
    yield "| model | loading | a step | sampling | decode | wall clock | peak memory | at the end | utilisation |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for model, report in kept.items():
        one = report["configurations"][0]
        medians, memory = one["medians"], one["memory"]["cuda"] or one["memory"]["resident"]
        used = [run["gpu"] if run["gpu"] is not None else run["cpu"] for run in one["runs"]]
        yield (
            f"| {model} | {one['loading_s']:.1f} s | {medians['step']:.2f} s | {medians['sampling']:.0f} s | "
            f"{medians['decode']:.1f} s | {medians['whole']:.0f} s | {gib(memory['peak'])} | {gib(memory['end'])} | "
            f"{sum(used) / len(used):.0%} |"
        )
    yield ""
    for model, report in kept.items():
        steps = len(report["configurations"][0]["runs"][0]["steps"])
        told = f"{steps} steps; {report['settings']['rounds']} run after one to warm up"
        yield f"{model}: {_environment(report)}; {told}."
        yield ""


def _controls_page(kept: Mapping[str, Any]) -> Iterable[str]:
    for model, reports in kept.items():
        first = next(iter(reports.values()))
        size = SIZES_OF.get(model, SIZES_OF["tiny"])
        yield f"## {model}, {size['width']}×{size['width'] // 2}, {size['steps']} steps, fp32"
        yield ""
        yield f"{_environment(first)}; {first['settings']['rounds']} rounds."
        yield ""
        for name, report in reports.items():
            yield from _rows(name, report)
            yield ""


def _rows(name: str, report: Mapping[str, Any]) -> Iterable[str]:
    yield f"| {name} | a step | of the first | decode | of the first | peak memory | picture |"
    yield "|---|---|---|---|---|---|---|"
    for i, one in enumerate(report["configurations"]):
        if one["failed"]:
            yield f"| {one['name']} | {one['failed']} | | | | | |"
            continue
        memory = one["memory"]["cuda"] or one["memory"]["resident"]
        cells = []
        for what in ("step", "decode"):
            ratio = one["ratios"].get(what)
            low, high = (ratio or {}).get("quartiles") or (None, None)
            spread = f" ({low:.2f} … {high:.2f})" if low is not None else ""
            cells += [f"{one['medians'][what]:.3g} s", "1" if not i else f"{ratio['median']:.2f}{spread}"]
        picture = one["picture"]
        told = "" if not i else "same" if picture["same"] else f"{picture['psnr']:.0f} dB"
        yield f"| {one['name']} | {' | '.join(cells)} | {gib(memory['peak'])} | {told} |"


if __name__ == "__main__":
    app()
