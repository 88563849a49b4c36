# diffusers and transformers do not type their models.
# mypy: disable-error-code="attr-defined,no-any-return,no-untyped-call"
"""Trains the transformer: against the clock, in one process or several, from where it was stopped.

Several workers (processes of one thread each) may share every batch; they average their gradients once a step, which
suffers far less from other programs on the same cores than threads that meet in every operation.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from diffusers import FluxTransformer2DModel

from training import autoencoder, checkpoint, linear_encoder, text
from training.data import RUNS, ZOOMED
from training.flux_parts import build_transformer
from training.latents import SIZES, read, there
from training.schedule import Clock, learning_rate
from training.trainer import Latents, Recipe, Trainer

CHECKPOINT = RUNS / "transformer.safetensors"


def load(path: Path = CHECKPOINT) -> FluxTransformer2DModel:
    """The moving average of a checkpoint, in float32."""
    tensors, notes = checkpoint.load(path)
    weights = checkpoint.unpack(tensors, "average")
    model = build_transformer(*notes["shape"], weights["x_embedder.weight"].shape[1] // 4)
    model.load_state_dict(weights)
    return model.eval()


def size_of(share: float, step: int, large_from: float, zoomed: Sequence[str] = ()) -> str:
    """Which size a step trains: 128x256 for the composition at first, from `large_from` of the budget 256x512 mostly.

    Each size keeps a part of the other phase, so that neither is forgotten. A fifth of the second phase trains windows
    over the larger pictures that there are (`zoomed`), in turn.
    """
    if zoomed and share >= large_from and step % 5 == 4:
        return zoomed[step // 5 % len(zoomed)]
    if share < large_from:
        return "large" if step % 4 == 3 else "small"
    return "small" if step % 8 == 7 else "large"


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    minutes: float
    distil_from: float
    large_from: float
    batch: int
    peak: float
    recipe: Recipe
    shape: tuple[int, int, int]
    workers: int
    threads: int
    device: str
    compiled: bool
    state: Path


def work(worker: int, plan: Plan, meeting: str) -> None:
    """One worker's training loop; worker 0 keeps the time for all, reports and saves."""
    torch.set_num_threads(plan.threads)
    torch.manual_seed(2)
    if plan.workers > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=worker, world_size=plan.workers)
    latents: Latents = {size: read(size) for size in SIZES if there(size)}
    network = build_transformer(*plan.shape)
    gains = linear_encoder.gains(autoencoder.load())
    trainer = Trainer(network, text.load(), latents, plan.device, worker, plan.workers, plan.recipe, gains)
    notes = trainer.restore(plan.state) if plan.state.exists() else {}
    if notes.get("spent", 0.0) / (60 * plan.minutes) < plan.distil_from:
        # A run that is given more time distils its guidance again, from what it becomes.
        trainer.teacher = None
    trained: dict[str, int] = notes.get("trained", {})
    if not worker:
        print(f"pictures: {', '.join(f'{len(scenes)} {size}' for size, (_, scenes) in latents.items())}", flush=True)
    if plan.compiled:
        trainer.compile()
    clock = Clock(plan.minutes, notes.get("spent", 0.0))
    saved = clock.spent
    recent: dict[str, list[float]] = {size: [] for size in latents}
    while (share := _agreed(clock.share, plan.workers)) < 1:
        size = size_of(share, trainer.step, plan.large_from, zoomed=tuple(size for size in ZOOMED if size in latents))
        if size not in latents:
            size = next(iter(latents))
        count = max(1, (plan.batch if size == "small" else plan.batch // 2) // plan.workers)
        rate = learning_rate(share, plan.peak, trainer.step, warmup=200, floor=0.04)
        recent[size].append(trainer.train_step(size, count, rate, distil=share >= plan.distil_from))
        trained[size] = trained.get(size, 0) + count * plan.workers
        if worker:
            continue
        if trainer.step % 100 == 0:
            means = " ".join(f"{name} {sum(v) / len(v):.4f}" for name, v in recent.items() if v)
            stage = "distilling" if trainer.teacher else "training"
            print(f"{share:4.0%} {stage} step {trainer.step} samples {trainer.samples} rate {rate:.2e} loss {means}, "
                  f"{(clock.budget - clock.spent) / 60:.0f} minutes left", flush=True)  # fmt: skip
            recent = {size: [] for size in latents}
        if clock.spent - saved > 120:
            saved = clock.spent
            trainer.save(plan.state, {"spent": saved, "share": share, "trained": trained})
    if worker == 0:
        trainer.save(plan.state, {"spent": clock.spent, "share": clock.share, "trained": trained})
        print("done", flush=True)


def _agreed(share: float, workers: int) -> float:
    """Worker 0's share of the budget, so that all workers take the same decisions."""
    if workers == 1:
        return share
    message = torch.tensor([share], dtype=torch.float64)
    dist.broadcast(message, 0)
    return float(message)


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the whole stage.")] = 80,
    distil_from: Annotated[float, typer.Option(help="Share of the budget after which guidance is distilled.")] = 0.75,
    large_from: Annotated[float, typer.Option(help="Share of the budget after which most steps train 256x512.")] = 0.3,
    batch: Annotated[int, typer.Option(help="Samples a step at 128x256; half of it at 256x512.")] = 16,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    padding: Annotated[int, typer.Option(help="Circular padding, in token columns; 0 switches it off.")] = 1,
    yaw: Annotated[float, typer.Option(help="Weight of DiT360's yaw loss as published.")] = 0.0,
    equivariance: Annotated[float, typer.Option(help="Weight of a second evaluation at another yaw.")] = 0.0,
    cube: Annotated[float, typer.Option(help="Weight of DiT360's cube loss.")] = 0.5,
    importance: Annotated[
        float, typer.Option(help="Exponent at σ 1 of how much a latent changes a picture, by which its errors count.")
    ] = 1.0,
    joints: Annotated[float, typer.Option(help="Weight of the error's steps where tokens meet.")] = 0.5,
    double: Annotated[int, typer.Option(help="Double blocks.")] = 2,
    single: Annotated[int, typer.Option(help="Single blocks.")] = 6,
    heads: Annotated[int, typer.Option(help="Attention heads of 32 channels.")] = 6,
    workers: Annotated[int, typer.Option(help="Processes that share every batch.")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads of each worker.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    compiled: Annotated[bool, typer.Option(help="Compile the blocks first; pays from half an hour on.")] = False,
    state: Annotated[Path, typer.Option(help="Checkpoint to go on from and to write.")] = CHECKPOINT,
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint."""
    shape = double, single, heads
    recipe = Recipe(padding, yaw, equivariance, cube, importance, joints)
    plan = Plan(minutes, distil_from, large_from, batch, peak, recipe, shape, workers, threads, device, compiled, state)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that stopping this process stops its workers
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (plan, f"file://{folder}/meeting"), nprocs=workers, daemon=True)


if __name__ == "__main__":
    typer.run(main)
