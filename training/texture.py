"""How near the texture of a model's pictures is to that of renders: the slope of the spectrum, and how steep steps are.

`python -m training.texture FOLDER …` prints a row for each diffusers folder. Its pictures are made from captions of
scenes that no training has seen, at default settings, and the renders are of these scenes.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from training.captions import caption
from training.evaluate import load, paint, tensor_of, unseen
from training.sharpness import BANDS, power

QUANTILES = 999


def slope(pictures: Tensor) -> float:
    """How the power of pictures (N, 3, H, W) falls with frequency: the median exponent, fitted over all bands.

    Power is that of a single frequency, on average over a band; -2 is that of many photos.
    """
    edges = torch.tensor(BANDS, dtype=torch.float32)
    single = (power(pictures) / (edges[:, 1] ** 2 - edges[:, 0] ** 2)).clamp(min=1e-9).log()
    middle = edges.log().mean(1)
    middle = middle - middle.mean()
    return float(((single * middle).sum(1) / (middle**2).sum()).median())


def steepness(pictures: Tensor) -> Tensor:
    """Quantiles (QUANTILES,) of the steps between neighbours in pictures (N, 3, H, W) in [-1, 1], in levels of 255."""
    grey = 127.5 * pictures.mean(1)
    steps = torch.hypot(grey.diff(dim=-1)[:, 1:], grey.diff(dim=-2)[..., 1:]).flatten().sort().values
    return steps[torch.linspace(0, len(steps) - 1, QUANTILES + 2).long()[1:-1]]


def main(
    folders: Annotated[list[Path], typer.Argument(help="Diffusers folders.")],
    count: Annotated[int, typer.Option(help="Pictures.")] = 48,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Prints the table."""
    torch.set_num_threads(threads)
    renders, scenes = unseen(count)
    prompts = [caption(scene, random.Random(number)) for number, scene in enumerate(scenes)]
    wanted = steepness(renders)
    print(
        "| | slope of the spectrum | steps, off by levels of 255 | the steepest 1 %, of the renders' |",
        "|---|---|---|---|",
        sep="\n",
    )
    print(f"| renders | {slope(renders):.2f} | 0 | 1 |", flush=True)
    for folder in folders:
        made = torch.stack([tensor_of(panorama) for panorama in paint(load(folder), prompts)])
        found = steepness(made)
        off, steepest = float((found - wanted).abs().mean()), float(found[-10:].mean() / wanted[-10:].mean())
        print(f"| {folder} | {slope(made):.2f} | {off:.2f} | {steepest:.2f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
