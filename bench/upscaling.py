"""Larger pictures of the embedded model: what windows do to the seam, the poles, the content and the edges.

    python bench/upscaling.py                  # the tables, about half an hour on two cores
    python bench/upscaling.py --pictures 4     # four pictures instead of thirty-two
    python bench/upscaling.py --default-only --largest 4096
    python bench/upscaling.py --default-only --smallest 4096 --largest 4096 --pictures 8 --renders 0

Pictures of 512×256 are made larger, with windows that know their place in the whole, with those that do not, and
without what the small picture shows (`--faithful never`). Beside each number stands that of the small picture resampled
by Lanczos' filter, and of that brought back to the small one, in which nothing is new:

* seam: the step at the meridian over the others (good: 0.8 … 1.25 of the source's), and the poles' deviation.
* borders: how far steps at the borders of the last windows are from all others, in standard deviations, the mean; the
  horizon, which is one of these lines at some sizes, is left out.
* judge: of how many pictures the classifier of ``training/`` says the same as of the small one, in everything.
* edges: the 99.5th percentile of the steps of a picture without noise (3×3 median), over Lanczos'.
* source: how near the larger picture, reduced again, is to the small one, in dB.
* seconds a megapixel.

A second table is of renders that the model never saw, of which the larger one is known: edges, and dB to that one.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import multiprocessing
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
        horizon = len(steps) // 2 - 1 if axis == 0 else -9  # a line of the scene, which a sharper picture has steeper
        lines = {line for line in lines if 0 <= line < len(steps) - 1 and abs(line - horizon) > 2}
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
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = 2,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/upscaling.json"),
) -> None:
    """Print a Markdown table, and write its figures as JSON."""
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(workers, _begin) as pool:
        for width in [size for size in (1024, 2048, 4096) if smallest <= size <= largest]:
            tasks = [(seed, width, default_only) for seed in range(pictures)]
            found = []
            for number, one in enumerate(pool.imap(larger, tasks)):
                found.append(one)
                print(f"{width}: {number + 1} of {pictures}", file=sys.stderr, flush=True)
            rows += [{"width": width, "way": way, **row_of([one[way] for one in found])} for way in found[0]]
            print("\n".join(table(rows)), file=sys.stderr, flush=True)
        beside = rows_of_renders(pool.map(larger_render, range(renders))) if renders else []
    print("\n".join(table(rows)), flush=True)
    if beside:
        print("\n".join(["", *table_of_renders(beside)]))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"pictures": rows, "renders": beside}, indent=1) + "\n", encoding="utf-8")


def _begin() -> None:
    torch.set_num_threads(1)
    logging.getLogger("dit360").setLevel(logging.ERROR)


@functools.cache
def model() -> dit360.Pipeline:
    """The embedded one, once in a process."""
    return dit360.load("tiny", precision="fp32", device="cpu")


@functools.cache
def source(seed: int) -> dit360.Panorama:
    """The picture of a prompt, by its number."""
    return model().generate(held_out(seed + 1)[seed].text, width=WIDTH, seed=seed)


def larger(task: tuple[int, int, bool]) -> dict[str, dict[str, float]]:
    """Way → figures of one picture made larger. task: its number, the width, whether by the default alone."""
    seed, width, default_only = task
    small, judge = source(seed), judging.load()
    windows = Windows.of_pixels((width, width // 2), (WIDTH, WIDTH // 2))
    plain = resampled(small, width)
    back = as_panorama(faithful_to(plain.floats, small.floats))
    found = {
        "Lanczos alone": told(plain, plain, small, windows, judge, 0.0),
        "Lanczos, brought back": told(back, plain, small, windows, judge, 0.0),
    }
    ways: dict[str, dict[str, str]] = {"whole": {}}
    if not default_only:
        ways |= {"own": {"window_positions": "own"}, "whole, never faithful": {"faithful": "never"}}
    for way, options in ways.items():
        began = time.perf_counter()
        made = model().upscale(small, to=width, seed=seed, steps=STEPS, **options)
        seconds = (time.perf_counter() - began) / (width * width / 2e6)
        found[way] = told(made, plain, small, windows, judge, seconds)
    return found


def told(
    made: dit360.Panorama,
    plain: dit360.Panorama,
    small: dit360.Panorama,
    windows: Windows,
    judge: judging.Judge,
    seconds: float,
) -> dict[str, float]:
    """Figures of one picture. plain: the small one resampled."""
    poles = max(0.2, plain.poles.top + plain.poles.bottom)
    return {
        "seam": made.seam.ratio / small.seam.ratio,
        "poles": (made.poles.top + made.poles.bottom) / poles,
        "borders": at_borders(made, windows),
        "judge": float(verdict(judge, made) == verdict(judge, small)),
        "edges": edges(made) / max(0.5, edges(plain)),
        "source": decibels(scaled(made.floats, small.size), small.floats),
        "seconds": seconds,
    }


def row_of(found: list[dict[str, float]]) -> dict[str, float]:
    """One row, of figures of several pictures."""
    of = {name: [one[name] for one in found] for name in found[0]}
    return {
        "seam": math.exp(statistics.mean(map(math.log, of["seam"]))),
        **{name: statistics.median(of[name]) for name in ("poles", "edges", "source", "seconds")},
        **{name: statistics.mean(of[name]) for name in ("borders", "judge")},
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


def larger_render(number: int) -> dict[str, tuple[float, float]]:
    """Way → edges, and dB to the larger render, of one render made larger."""
    width = 2 * WIDTH
    (render,), (scene,) = unseen(1, width // 2, first=number)
    true = np.ascontiguousarray(render.movedim(0, -1).numpy() / 2 + 0.5)
    small = as_panorama(scaled(true, (WIDTH, WIDTH // 2)))
    plain = enlarged(small.floats, (width, width // 2))
    asked = {"to": width, "seed": number, "steps": STEPS}
    words = caption(scene, random.Random(number))
    ways = {
        "Lanczos alone": plain,
        "Lanczos, brought back": faithful_to(plain, small.floats),
        "whole, never faithful": model().upscale(small, words, **asked, faithful="never").floats,
        "whole": model().upscale(small, words, **asked).floats,
        "the render": true,
    }
    of_plain = max(0.5, edges(as_panorama(plain)))
    return {way: (edges(as_panorama(floats)) / of_plain, decibels(floats, true)) for way, floats in ways.items()}


def rows_of_renders(found: list[dict[str, tuple[float, float]]]) -> list[dict[str, Any]]:
    """The rows of the second table."""
    rows = []
    for way in found[0]:
        sharp, near = (statistics.median(values) for values in zip(*(one[way] for one in found), strict=True))
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
