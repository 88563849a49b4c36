"""Solvers and spacings on the embedded model: how near to the exact flow, and how good the pictures, for how much work.

    python bench/schedulers.py              # all of docs/schedulers.md, about 20 minutes on two cores
    python bench/schedulers.py --quick      # two solvers, few prompts

Error: root mean square difference of the latents from those of Euler's method with 1000 steps, in units of the latents'
standard deviation, at 512×256 with a fixed longitude (turning it at every step makes another flow of each number of
steps). Seam and adherence: of pictures at 256×128 with the model's defaults, the judge being the classifier that `make
eval-tiny` uses. Solvers with fresh noise have no one picture to be near to, so they have no error here.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import dit360_core as dit360
import matplotlib as mpl
import typer
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.registry import default_registry
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training import judge as judging
from training.evaluate import tensor_of
from training.prompts import Prompt, held_out

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WAYS = {
    "flow_match": {"scheduler_type": "flow_match"},
    "heun": {"scheduler_type": "heun"},
    "unipc": {"scheduler_type": "unipc"},
    "dpmpp_2m": {"scheduler_type": "dpmpp_2m"},
    "ddim η=0.3": {"scheduler_type": "ddim", "scheduler_eta": 0.3},
    "ddim η=1": {"scheduler_type": "ddim", "scheduler_eta": 1.0},
}
SCHEDULES = ("linear", "quadratic", "cosine")
EVALUATIONS = (8, 16, 25, 50)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few of everything, and no plots.")] = False,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/schedulers.json"),
) -> None:
    """Measure everything, print a table, draw the curves."""
    pipe = dit360.load("tiny")
    exact, judged = held_out(2 if quick else 4), held_out(3 if quick else 16)
    ways = ("flow_match", "unipc") if quick else tuple(WAYS)
    references = [reference(pipe, prompt.text, seed, 100 if quick else 1000) for seed, prompt in enumerate(exact)]
    judge, rows = judging.load(), []
    cells = [(way, schedule, count) for way in ways for schedule in SCHEDULES for count in EVALUATIONS]
    for way, schedule, count in track(cells):
        options = {**WAYS[way], "timestep_schedule": schedule}
        steps = steps_for(WAYS[way]["scheduler_type"], count)
        row = {"way": way, "schedule": schedule, "evaluations": count, "steps": steps}
        if "scheduler_eta" not in options:
            row["error"] = error(pipe, exact, references, {**options, "steps": steps})
        rows.append({**row, **quality(pipe, judge, judged, {**options, "steps": steps})})
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(table(rows))
    if not quick:
        draw(rows)


def steps_for(scheduler: str, evaluations: int) -> int:
    """The most steps that ask the model at most so often."""
    (entry,) = default_registry().find("scheduler", scheduler)
    return max(steps for steps in range(1, evaluations + 1) if entry.offer.evaluations(steps) <= evaluations)


def reference(pipe: Pipeline, prompt: str, seed: int, steps: int) -> Any:
    """Latents of the exact flow, as far as Euler's method gets."""
    return pipe.sample(pipe.encode(prompt), seed=seed, steps=steps, latent_rotation=False).tensor


def error(pipe: Pipeline, prompts: list[Prompt], references: list[Any], options: dict[str, Any]) -> float:
    """Mean over prompts of the distance from the references."""
    found = []
    for seed, (prompt, expected) in enumerate(zip(prompts, references, strict=True)):
        got = pipe.sample(pipe.encode(prompt.text), seed=seed, latent_rotation=False, **options).tensor
        found.append(float((got - expected).square().mean().sqrt() / expected.std()))
    return statistics.mean(found)


def quality(pipe: Pipeline, judge: Any, prompts: list[Prompt], options: dict[str, Any]) -> dict[str, float]:
    """Median seam ratio, and the share of what the prompts settle that the judge finds."""
    seams, right = [], []
    for seed, prompt in enumerate(prompts):
        panorama = pipe.generate(prompt.text, seed=seed, width=256, **options)
        verdict = judging.verdicts(judge, tensor_of(panorama)[None])[0]
        right += [verdict[name] == value for name, value in prompt.wanted.items()]
        seams.append(panorama.seam.ratio)
    return {"seam": statistics.median(seams), "adherence": sum(right) / len(right), "checks": len(right)}


def table(rows: list[dict[str, Any]]) -> Table:
    """One row a way and schedule, for each number of evaluations: error, seam, adherence."""
    shown = Table("solver", "schedule", *(f"{n}: error | seam | adherence" for n in EVALUATIONS))
    for way in dict.fromkeys(row["way"] for row in rows):
        for schedule in SCHEDULES:
            mine = [row for row in rows if (row["way"], row["schedule"]) == (way, schedule)]
            cells = []
            for row in mine:
                off = f"{row['error']:.4f}" if "error" in row else "–"
                cells.append(f"{off} | {row['seam']:.2f} | {row['adherence']:.0%}")
            shown.add_row(way, schedule, *cells)
    return shown


def draw(rows: list[dict[str, Any]]) -> None:
    """The curves of docs/schedulers.md."""
    figures = {
        "error": ("difference from the exact flow, in standard deviations", "log"),
        "adherence": ("share of what the prompt says that is seen", "linear"),
        "seam": ("seam ratio, median (1: no seam)", "linear"),
    }
    styles = dict(zip(SCHEDULES, ("-", "--", ":"), strict=True))
    colours = {way: f"C{i}" for i, way in enumerate(WAYS)}
    for key, (label, scale) in figures.items():
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for way, schedule in dict.fromkeys((row["way"], row["schedule"]) for row in rows):
            mine = [r for r in rows if (r["way"], r["schedule"]) == (way, schedule) and key in r]
            if mine:
                axes.plot(
                    [r["evaluations"] for r in mine],
                    [r[key] for r in mine],
                    styles[schedule],
                    color=colours[way],
                    label=way if schedule == "linear" else None,
                    marker="o" if schedule == "linear" else None,
                    markersize=4,
                    alpha=1.0 if schedule == "linear" else 0.5,
                )
        axes.set(xscale="log", yscale=scale, xlabel="evaluations of the model", ylabel=label)
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        for schedule, style in styles.items():
            axes.plot([], [], style, color="black", label=schedule)
        axes.legend(fontsize=8, ncols=2)
        figure.savefig(IMAGES / f"schedulers-{key}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
