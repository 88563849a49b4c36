"""Renders the data set in parts, and reads it back.

A part is `part-00012.npy`, bytes (100, 256, 512, 3), beside `part-00012.json`, its scenes. Both are written to a
temporary name first, so that whatever has its final name is whole; several workers can render at once, and
training may start while they do. Parts of unseen scenes (`held-00000.npy`) have seeds that training never draws.
Larger pictures (`double-00000.npy`, `fourfold-00000.npy`) have seeds of their own; windows of them are trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from training.render import render, to_uint8
from training.scenes import Scene, draw

HEIGHT, WIDTH = 256, 512
HELD_OUT_SEED = 50_000_000


@dataclass(frozen=True)
class Kind:
    """Scenes in a part, the first scene's seed, and how many times the native size their pictures have."""

    scenes: int
    first: int
    zoom: int = 1


KINDS = {
    "part": Kind(100, 0),
    "held": Kind(100, HELD_OUT_SEED),
    "double": Kind(20, 20_000_000, 2),
    "fourfold": Kind(5, 30_000_000, 4),
}
RUNS = Path(__file__).parent / "runs"
DATA = RUNS / "data"
ZOOMED = tuple(kind for kind, about in KINDS.items() if about.zoom > 1)


def write_part(
    folder: Path, kind: str, number: int, size: int | None = None, supersample: int = 2, device: str = "cpu"
) -> None:
    """Renders part `number` of a kind unless it is already there. size: scenes, fewer than the kind has."""
    final = folder / f"{kind}-{number:05d}.npy"
    if final.exists():
        return
    about = KINDS[kind]
    scenes = [draw(about.first + number * about.scenes + i) for i in range(size or about.scenes)]
    height, width, few = about.zoom * HEIGHT, about.zoom * WIDTH, max(1, 10 // about.zoom**2)
    groups = [scenes[i : i + few] for i in range(0, len(scenes), few)]
    pictures = torch.cat([to_uint8(render(group, height, width, supersample, device)).cpu() for group in groups])
    records = final.with_suffix(".json")
    records.write_text(json.dumps([scene.to_dict() for scene in scenes]))
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, pictures.numpy())
    temporary.rename(final)


def read_parts(
    folder: Path = DATA, kind: str = "part", known: int = 0, limit: int | None = None
) -> tuple[Tensor, list[Scene]]:
    """Pictures (N, H, W, 3) bytes and their scenes, of the finished parts of a kind from `known` up to `limit`."""
    files = sorted(folder.glob(f"{kind}-*.npy"))[known:limit]
    if not files:
        return torch.empty(0, HEIGHT, WIDTH, 3, dtype=torch.uint8), []
    pictures = torch.cat([torch.from_numpy(np.load(file)) for file in files])
    scenes = [Scene(**record) for file in files for record in json.loads(file.with_suffix(".json").read_text())]
    return pictures, scenes


def to_float(pictures: Tensor, height: int = HEIGHT) -> Tensor:
    """Bytes (N, H, W, 3) to (N, 3, height, 2·height) in [-1, 1]; smaller heights are area averages."""
    values = pictures.movedim(-1, -3).float() / 127.5 - 1
    factor = pictures.shape[-3] // height
    return torch.nn.functional.avg_pool2d(values, factor) if factor > 1 else values


def decibels(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) of each of the pictures (N, 3, H, W) in [-1, 1]."""
    return -10 * (((made - wanted) ** 2).flatten(1).mean(1) / 4).log10()


def main(
    parts: Annotated[int, typer.Option(help="How many parts of a hundred scenes.")] = 60,
    held: Annotated[int, typer.Option(help="How many parts of unseen scenes.")] = 2,
    double: Annotated[int, typer.Option(help="How many parts of twenty scenes at 512x1024.")] = 0,
    fourfold: Annotated[int, typer.Option(help="How many parts of five scenes at 1024x2048.")] = 0,
    worker: Annotated[int, typer.Option(help="Number of this worker, from 0.")] = 0,
    workers: Annotated[int, typer.Option(help="How many workers share the work.")] = 1,
    supersample: Annotated[int, typer.Option(help="Rays along each side of a pixel.")] = 2,
    device: Annotated[str, typer.Option(help="Where to render.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of this worker.")] = 1,
) -> None:
    """Renders the missing parts of the data set."""
    torch.set_num_threads(threads)
    DATA.mkdir(parents=True, exist_ok=True)
    counts = {"held": held, "part": parts, "double": double, "fourfold": fourfold}
    work = [(kind, number) for kind, count in counts.items() for number in range(count)]
    for kind, number in work[worker::workers]:
        write_part(DATA, kind, number, supersample=supersample, device=device)
        print(f"{kind} {number}", flush=True)


if __name__ == "__main__":
    typer.run(main)
