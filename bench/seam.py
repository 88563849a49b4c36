"""The seam ratios of many panoramas of the embedded model, at its defaults.

python bench/seam.py --seeds 6
python bench/seam.py --seeds 6 --no-latent-rotation
"""

from __future__ import annotations

import statistics
from typing import Annotated

import dit360_core as dit360
import typer

PROMPTS = (
    "a castle above a meadow at sunset",
    "a calm sea under a starry night sky",
    "snowy mountains at noon",
    "a desert at dawn",
    "a city skyline at night across the water",
    "a forest in fog",
    "a snowy field at night",
    "a green meadow and mountains under white clouds",
)


def main(
    seeds: Annotated[int, typer.Option(help="Panoramas per prompt.")] = 6,
    prompts: Annotated[int, typer.Option(help="How many of the prompts.", max=len(PROMPTS))] = len(PROMPTS),
    latent_rotation: Annotated[bool, typer.Option(help="Turn the longitude at every step.")] = True,
) -> None:
    """Print every ratio, the mean and the median."""
    pipe = dit360.load("tiny")
    everything = []
    for prompt in PROMPTS[:prompts]:
        ratios = [pipe.generate(prompt, seed=seed, latent_rotation=latent_rotation).seam.ratio for seed in range(seeds)]
        everything += ratios
        print(f"{prompt}: {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"{len(everything)} panoramas: mean {statistics.mean(everything):.2f}, ", end="")
    print(f"median {statistics.median(everything):.2f}")


if __name__ == "__main__":
    typer.run(main)
