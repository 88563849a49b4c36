"""Larger pictures of the embedded model: what windows do to the seam, the poles, the content and the edges.

    python bench/upscaling.py                  # the tables, about half an hour on two cores
    python bench/upscaling.py --pictures 4     # four pictures instead of thirty-two
    python bench/upscaling.py --default-only --largest 4096
    python bench/upscaling.py --default-only --smallest 4096 --largest 4096 --pictures 8 --renders 0

Pictures of 512×256 are made larger, with windows that know their place in the whole, with those that do not, and
without what the small picture shows (`--faithful never`). Beside each number stands that of the small picture resampled
by Lanczos' filter, and of that brought back to the small one, in which nothing is new:

* seam: the step at the meridian over the others (good: 0.8 … 1.25 of the source's), and the poles' deviation.
* borders: how far steps at the borders of the last windows are from all others, in standard deviations, the mean.
* judge: of how many pictures the classifier of ``training/`` says the same as of the small one, in everything.
* edges: the 99.5th percentile of the steps of a picture without noise (3×3 median), over Lanczos'.
* source: how near the larger picture, reduced again, is to the small one, in dB.
* seconds a megapixel.

A second table is of renders that the model never saw, of which the larger one is known: edges, and dB to that one.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

sys.path.append(str(Path(__file__).parents[1]))  # training, whose judge it is

import dit360_core as dit360
import numpy as np
import torch
import typer
from dit360_core.panorama.levels import eight_bits
from dit360_core.panorama.resizing import enlarged, faithful_to
from dit360_core.panorama.resizing import resampled as scaled
from dit360_core.sphere.windows import Windows
from PIL import Image, ImageFilter

from training import judge as judging
from training.captions import caption
from training.evaluate import unseen
from training.prompts import held_out

WIDTH, STEPS = 512, 10


def resampled(picture: dit360.Panorama, width: int) -> dit360.Panorama:
    """By Lanczos' filter."""
    assert picture.floats is not None
    return as_panorama(enlarged(picture.floats, (width, width // 2)))


def greys(picture: dit360.Panorama) -> Any:
    """Brightness, as floats."""
    return np.asarray(picture.image.convert("L"), dtype=np.float64)


def edges(picture: dit360.Panorama) -> float:
    """Of a picture without noise."""
    clean = np.asarray(picture.image.convert("L").filter(ImageFilter.MedianFilter(3)), dtype=np.float64)
    return float(np.percentile(np.hypot(np.diff(clean, axis=1)[1:], np.diff(clean, axis=0)[:, 1:]), 99.5))


def at_borders(picture: dit360.Panorama, windows: Windows) -> float:
    """Steps at the borders of the last windows, in standard deviations of all others."""
    grey = greys(picture)
    tops, lefts = zip(*windows.places(STEPS - 1), strict=True)
    found = []
    for axis, borders, side in ((0, tops, windows.height), (1, lefts, windows.width)):
        steps = np.abs(np.diff(grey, axis=axis, append=np.take(grey, [0], axis))).mean(axis=1 - axis)
        lines = {16 * line % len(steps) - 1 for border in borders for line in (border, border + side)}
        lines = {line for line in lines if 0 <= line < len(steps) - 1}
        others = np.delete(steps, sorted(lines))
        if lines:
            found.append((steps[sorted(lines)].mean() - others.mean()) / max(1e-9, others.std()))
    return float(np.mean(found))


def verdict(judge: judging.Judge, picture: dit360.Panorama) -> dict[str, str]:
    """What the judge says of a picture, seen as large as those that it knows."""
    small = picture.image.resize((WIDTH, WIDTH // 2), Image.Resampling.BOX)
    numbers = torch.from_numpy(np.asarray(small, dtype=np.float32) / 127.5 - 1).movedim(-1, 0)
    return judging.verdicts(judge, numbers[None])[0]


def main(
    pictures: Annotated[int, typer.Option(help="Of each row.")] = 32,
    largest: Annotated[int, typer.Option(help="Width of the last size.")] = 2048,
    smallest: Annotated[int, typer.Option(help="Width of the first size.")] = 1024,
    default_only: Annotated[bool, typer.Option(help="Leave out the ways that are not the default.")] = False,
    renders: Annotated[int, typer.Option(help="Of the second table; 0: none.")] = 12,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/upscaling.json"),
) -> None:
    """Print a Markdown table, and write its figures as JSON."""
    pipe, judge = dit360.load("tiny", precision="fp32", device="cpu"), judging.load()
    sources = [pipe.generate(p.text, width=WIDTH, seed=seed) for seed, p in enumerate(held_out(pictures))]
    rows = []
    for width in [size for size in (1024, 2048, 4096) if smallest <= size <= largest]:
        windows = Windows.of_pixels((width, width // 2), (WIDTH, WIDTH // 2))
        plain = [resampled(picture, width) for picture in sources]
        rows.append({"width": width, "way": "Lanczos alone", **told(plain, plain, sources, windows, judge, 0.0)})
        back = [as_panorama(faithful_to(one.floats, small.floats)) for one, small in zip(plain, sources, strict=True)]
        rows.append({"width": width, "way": "Lanczos, brought back", **told(back, plain, sources, windows, judge, 0.0)})
        ways: dict[str, dict[str, str]] = {"whole": {}}
        if not default_only:
            ways |= {"own": {"window_positions": "own"}, "whole, never faithful": {"faithful": "never"}}
        for way, options in ways.items():
            began = time.perf_counter()
            made = [
                pipe.upscale(picture, to=width, seed=seed, steps=STEPS, **options)
                for seed, picture in enumerate(sources)
            ]
            seconds = (time.perf_counter() - began) / len(made) / (width * width / 2e6)
            rows.append({"width": width, "way": way, **told(made, plain, sources, windows, judge, seconds)})
            print(table(rows[-1:])[-1], file=sys.stderr, flush=True)
    print("\n".join(table(rows)), flush=True)
    beside = of_renders(pipe, renders) if renders else []
    if beside:
        print("\n".join(["", *table_of_renders(beside)]))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"pictures": rows, "renders": beside}, indent=1) + "\n", encoding="utf-8")


def told(
    made: list[Any], plain: list[Any], sources: list[Any], windows: Windows, judge: judging.Judge, seconds: float
) -> dict[str, float]:
    """One row."""
    seams = [one.seam.ratio / other.seam.ratio for one, other in zip(made, sources, strict=True)]
    poles = [
        (one.poles.top + one.poles.bottom) / max(0.2, other.poles.top + other.poles.bottom)
        for one, other in zip(made, plain, strict=True)
    ]
    agree = [verdict(judge, one) == verdict(judge, other) for one, other in zip(made, sources, strict=True)]
    sharper = [edges(one) / max(0.5, edges(other)) for one, other in zip(made, plain, strict=True)]
    return {
        "seam": math.exp(statistics.mean(map(math.log, seams))),
        "poles": statistics.median(poles),
        "borders": statistics.mean(at_borders(one, windows) for one in made),
        "judge": sum(agree) / len(agree),
        "edges": statistics.median(sharper),
        "source": statistics.median(
            decibels(scaled(one.floats, other.size), other.floats) for one, other in zip(made, sources, strict=True)
        ),
        "seconds": seconds,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| to | windows | seam, of the source's | poles | borders | judge agrees | edges, of Lanczos' "
        "| dB to the source | s a megapixel |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['width']} | {row['way']} | {row['seam']:.2f} | {row['poles']:.2f} | {row['borders']:+.2f} | "
            f"{row['judge']:.0%} | {row['edges']:.2f} | {row['source']:.0f} | {row['seconds']:.1f} |"
        )
    return lines


def of_renders(pipe: Any, count: int) -> list[dict[str, Any]]:
    """The rows of the second table."""
    width = 2 * WIDTH
    large, scenes = unseen(count, width // 2)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed, (render, scene) in enumerate(zip(large, scenes, strict=True)):
        true = np.ascontiguousarray(render.movedim(0, -1).numpy() / 2 + 0.5)
        small = as_panorama(scaled(true, (WIDTH, WIDTH // 2)))
        plain = enlarged(small.floats, (width, width // 2))
        asked = {"to": width, "seed": seed, "steps": STEPS}
        words = caption(scene, random.Random(seed))
        ways = {
            "Lanczos alone": plain,
            "Lanczos, brought back": faithful_to(plain, small.floats),
            "whole, never faithful": pipe.upscale(small, words, **asked, faithful="never").floats,
            "whole": pipe.upscale(small, words, **asked).floats,
            "the render": true,
        }
        of_plain = max(0.5, edges(as_panorama(plain)))
        for way, floats in ways.items():
            found.setdefault(way, []).append((edges(as_panorama(floats)) / of_plain, decibels(floats, true)))
    rows = []
    for way, pairs in found.items():
        sharp, near = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows.append({"way": way, "edges": sharp, "decibels": None if way == "the render" else near})
    return rows


def table_of_renders(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| to 1024 | edges, of Lanczos' | dB to the render |", "|---|---|---|"]
    for row in rows:
        near = "" if row["decibels"] is None else f"{row['decibels']:.1f}"
        lines.append(f"| {row['way']} | {row['edges']:.2f} | {near} |")
    return lines


def as_panorama(floats: Any) -> dit360.Panorama:
    """floats: ``(H, W, 3)`` in 0 … 1."""
    return dit360.Panorama(Image.fromarray(eight_bits(floats)), floats=floats)


def decibels(made: Any, wanted: Any) -> float:
    """PSNR of floats in 0 … 1."""
    return -10 * math.log10(max(1e-12, float(((made - wanted) ** 2).mean())))


if __name__ == "__main__":
    typer.run(main)
