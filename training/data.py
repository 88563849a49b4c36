"""Renders the data set in parts of a hundred scenes, and reads it back.

A part is `part-00012.npy`, bytes (100, 256, 512, 3), beside `part-00012.json`, its scenes. Both are written to a
temporary name first, so that whatever has its final name is whole; several workers can render at once, and
training may start while they do. Parts of unseen scenes (`held-00000.npy`) have seeds that training never draws.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from training.render import render, to_uint8
from training.scenes import Scene, draw

HEIGHT, WIDTH = 256, 512
PART = 100
HELD_OUT_SEED = 50_000_000
RUNS = Path(__file__).parent / "runs"
DATA = RUNS / "data"


def write_part(
    folder: Path, kind: str, number: int, size: int = PART, supersample: int = 2, device: str = "cpu"
) -> None:
    """Renders part `number` of `kind` ("part" or "held") unless it is already there."""
    final = folder / f"{kind}-{number:05d}.npy"
    if final.exists():
        return
    first = number * PART + (HELD_OUT_SEED if kind == "held" else 0)
    scenes = [draw(first + i) for i in range(size)]
    pictures = torch.cat(
        [to_uint8(render(scenes[i : i + 10], HEIGHT, WIDTH, supersample, device)).cpu() for i in range(0, size, 10)]
    )
    records = final.with_suffix(".json")
    records.write_text(json.dumps([scene.to_dict() for scene in scenes]))
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, pictures.numpy())
    temporary.rename(final)


def read_parts(
    folder: Path = DATA, kind: str = "part", known: int = 0, limit: int | None = None
) -> tuple[Tensor, list[Scene]]:
    """Pictures (N, 256, 512, 3) bytes and their scenes, of the finished parts from `known` up to `limit`."""
    files = sorted(folder.glob(f"{kind}-*.npy"))[known:limit]
    if not files:
        return torch.empty(0, HEIGHT, WIDTH, 3, dtype=torch.uint8), []
    pictures = torch.cat([torch.from_numpy(np.load(file)) for file in files])
    scenes = [Scene(**record) for file in files for record in json.loads(file.with_suffix(".json").read_text())]
    return pictures, scenes


def to_float(pictures: Tensor, height: int = HEIGHT) -> Tensor:
    """Bytes (N, 256, 512, 3) to (N, 3, height, 2·height) in [-1, 1]; smaller heights are area averages."""
    values = pictures.movedim(-1, -3).float() / 127.5 - 1
    factor = pictures.shape[-3] // height
    return torch.nn.functional.avg_pool2d(values, factor) if factor > 1 else values


def decibels(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) of each of the pictures (N, 3, H, W) in [-1, 1]."""
    return -10 * (((made - wanted) ** 2).flatten(1).mean(1) / 4).log10()


def main(
    parts: Annotated[int, typer.Option(help="How many parts of a hundred scenes.")] = 60,
    held: Annotated[int, typer.Option(help="How many parts of unseen scenes.")] = 2,
    worker: Annotated[int, typer.Option(help="Number of this worker, from 0.")] = 0,
    workers: Annotated[int, typer.Option(help="How many workers share the work.")] = 1,
    supersample: Annotated[int, typer.Option(help="Rays along each side of a pixel.")] = 2,
    device: Annotated[str, typer.Option(help="Where to render.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of this worker.")] = 1,
) -> None:
    """Renders the missing parts of the data set."""
    torch.set_num_threads(threads)
    DATA.mkdir(parents=True, exist_ok=True)
    work = [("held", i) for i in range(held)] + [("part", i) for i in range(parts)]
    for kind, number in work[worker::workers]:
        write_part(DATA, kind, number, supersample=supersample, device=device)
        print(f"{kind} {number}", flush=True)


if __name__ == "__main__":
    typer.run(main)
