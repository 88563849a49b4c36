# diffusers does not type its models.
# mypy: disable-error-code="attr-defined,no-any-return,no-untyped-call"
"""What DiT360's means do: the same short training with one after the other, and a table (`make ablation`).

Each row goes on from one checkpoint with the same samples in the same order at 128x256, and is then measured the same
way: its loss on unseen scenes, how far it treats yaws alike, and the meridian and the poles of pictures that it paints
without any help (no latent rotation), decoded circularly.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dit360_core.panorama.metrics import pole_constancy, seam_ratio
from torch import Tensor

from training import autoencoder, latents, text, transformer
from training.captions import HELD_OUT_PROMPTS
from training.data import RUNS
from training.export import put_together
from training.flux_parts import build_transformer
from training.sample import sample
from training.schedule import learning_rate
from training.trainer import Recipe, Trainer
from training.wrapping import wrap_longitude

RECIPES: dict[str, Recipe] = {
    "no circular padding": Recipe(padding=0),
    "circular padding": Recipe(),
    "+ yaw loss as published, 0.5": Recipe(yaw=0.5),
    "+ cube loss, 0.5": Recipe(cube=0.5),
    "+ both (DiT360)": Recipe(yaw=0.5, cube=0.5),
    "+ equivariance, 0.5": Recipe(equivariance=0.5),
}
TABLE = RUNS / "ablation.json"


@torch.no_grad()
def held_losses(trainer: Trainer, batches: int = 16) -> dict[str, float]:
    """Mean plain loss and mean difference between two yaws of the trained model on unseen scenes."""
    trainer.model = trainer.average
    found = [trainer.losses("small", 16, 10_000 + number, distil=False) for number in range(batches)]
    return {name: float(torch.cat([f[name] for f in found]).mean()) for name in ("plain", "equivariance")}


def painted(trainer: Trainer, seeds: int) -> Tensor:
    """Pictures (N, 3, 128, 256) in [0, 1] of the contact sheet's prompts, from `seeds` seeds each."""
    pipeline = put_together(text.load(), autoencoder.load(), trainer.average)
    wrap_longitude(pipeline.vae)
    prompts = list(HELD_OUT_PROMPTS)
    padding = trainer.recipe.padding
    return torch.cat([sample(pipeline, prompts, 128, 20, 1.0, seed=s, padding=padding) for s in range(seeds)])


def run(recipe: Recipe, start: Path, steps: int, batch: int, peak: float, seeds: int) -> dict[str, Any]:
    """Trains `recipe` from the checkpoint `start` and measures it."""
    encoders = text.load()
    known = {"small": latents.read("small")}
    trainer = Trainer(build_transformer(), encoders, known, recipe=recipe)
    trainer.restore(start)
    trainer.teacher = None
    trainer.step = trainer.samples = 0
    for step in range(steps):
        trainer.train_step("small", batch, learning_rate(step / steps, peak, step, warmup=50, floor=0.04))
    measured = Recipe(padding=recipe.padding, equivariance=1.0)
    judge = Trainer(trainer.average, encoders, {"small": latents.read("small", "held")}, recipe=measured)
    pictures = painted(trainer, seeds).movedim(1, -1).numpy()
    seams = [seam_ratio(picture) for picture in pictures]
    poles = [pole_constancy(picture) for picture in pictures]
    return {
        **held_losses(judge),
        "seam_mean": statistics.mean(seams),
        "seam_median": statistics.median(seams),
        "poles": statistics.mean((p.top + p.bottom) / 2 for p in poles),
        "pictures": len(pictures),
    }


def main(
    start: Annotated[Path, typer.Option(help="Checkpoint that every row goes on from.")] = transformer.CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Steps of each row.")] = 240,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = 16,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 5e-4,
    seeds: Annotated[int, typer.Option(help="Pictures for each of the twelve prompts.")] = 2,
    worker: Annotated[int, typer.Option(help="Number of this worker, from 0.")] = 0,
    workers: Annotated[int, typer.Option(help="How many workers share the rows.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Trains and measures every row that is not in the table yet, and prints the table."""
    torch.set_num_threads(threads)
    part = TABLE.with_stem(f"{TABLE.stem}-{worker}")
    table: dict[str, Any] = json.loads(part.read_text()) if part.exists() else {}
    for name, recipe in list(RECIPES.items())[worker::workers]:
        if name not in table:
            table[name] = run(recipe, start, steps, batch, peak, seeds)
            part.write_text(json.dumps(table, indent=1))
            print(f"{name}: {table[name]}", flush=True)
    known: dict[str, Any] = {}
    for file in sorted(TABLE.parent.glob(f"{TABLE.stem}-*.json")):
        known |= json.loads(file.read_text())
    print("| | loss | difference between yaws | seam ratio, median (mean) | poles |")
    print("|---|---|---|---|---|")
    for name in RECIPES:
        if row := known.get(name):
            print(f"| {name} | {row['plain']:.4f} | {row['equivariance']:.4f} | {row['seam_median']:.2f} "
                  f"({row['seam_mean']:.2f}) | {row['poles']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
