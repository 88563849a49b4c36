"""What yaw and cube consistency do to panoramas of the embedded model, and what they cost.

    python bench/consistency.py --prompts 12

Seam: median seam ratio, 1 being none. Poles: standard deviation along the first and last row, each of which shows one
point, in grey levels of 255. Turned: PSNR between a panorama and that of the same noise turned by a third of the
longitude, turned back; without any preference for a longitude it would be infinite. Borders: mean step of grey levels
across the meridians where faces of a cube map meet, in units of the mean step between all columns. Adherence: share of
what the prompts settle that the judge of `make eval-tiny` finds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import dit360_core as dit360
import numpy as np
import torch
import typer
from dit360_core.panorama.metrics import ws_psnr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training import judge as judging
from training.evaluate import tensor_of
from training.prompts import held_out

WAYS: dict[str, dict[str, Any]] = {
    "neither, longitude fixed": {"latent_rotation": False},
    "yaw 0.1, longitude fixed": {"latent_rotation": False, "yaw_consistency": 0.1},
    "yaw 1, longitude fixed": {"latent_rotation": False, "yaw_consistency": 1.0},
    "neither": {},
    "yaw 1": {"yaw_consistency": 1.0},
    "cube 0.1": {"cube_consistency": 0.1},
    "cube 0.5": {"cube_consistency": 0.5},
    "cube 1": {"cube_consistency": 1.0},
}


def main(
    prompts: Annotated[int, typer.Option(help="Held-out prompts, one panorama each.")] = 12,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/consistency.json"),
) -> None:
    """Print a row for each weight."""
    pipe, judge = dit360.load("tiny"), judging.load()
    table = Table(
        "weights (else: the model's defaults)", "evaluations", "seam", "poles", "turned", "borders", "adherence"
    )
    rows = []
    for name, options in track(WAYS.items()):
        row = measured(pipe, judge, held_out(prompts), options)
        rows.append({"way": name, **row})
        figures = [f"{row[key]:.2f}" for key in ("seam", "poles", "turned", "borders")]
        table.add_row(name, str(row["evaluations"]), *figures, f"{row['adherence']:.0%}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(table)


def measured(pipe: Any, judge: Any, prompts: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of one row."""
    found: dict[str, list[float]] = {key: [] for key in ("seam", "poles", "turned", "borders")}
    right: list[bool] = []
    evaluations = 0
    for seed, prompt in enumerate(prompts):
        start = torch.randn(1, 16, 32, 64, generator=torch.Generator().manual_seed(seed))
        third = start.shape[-1] // 3
        panorama, turned = (
            pipe.generate(prompt.text, seed=seed, latents=noise, **options) for noise in (start, start.roll(-third, -1))
        )
        evaluations = panorama.settings["used"]["evaluations"]
        pixels, other = (np.asarray(one.image) for one in (panorama, turned))
        found["seam"].append(panorama.seam.ratio)
        found["poles"].append((panorama.poles.top + panorama.poles.bottom) / 2)
        found["turned"].append(ws_psnr(np.roll(other, 8 * third, axis=1), pixels))
        steps = np.abs(pixels.astype(float) - np.roll(pixels, 1, axis=1)).mean(axis=(0, 2))
        found["borders"].append(steps[[64, 192, 320, 448]].mean() / steps.mean())
        verdict = judging.verdicts(judge, tensor_of(panorama)[None])[0]
        right += [verdict[name] == value for name, value in prompt.wanted.items()]
    middle = {key: statistics.median(values) for key, values in found.items()}
    return {**middle, "adherence": sum(right) / len(right), "evaluations": evaluations}


if __name__ == "__main__":
    typer.run(main)
