"""Makes the embedded model from nothing, stage by stage: `make train-tiny`.

Every stage goes on where it was stopped, so the command may be interrupted and given again; stages that are done take
seconds. With --go-on the shipped weights are trained further, instead of starting anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from training.data import DATA, KINDS, RUNS
from training.device import pick
from training.latents import SIZES


def stage(name: str, *arguments: object, must: bool = True) -> None:
    """Runs one stage to its end; its output is shown as it comes. must: stop here if it fails."""
    print(f"==> {name} {' '.join(map(str, arguments))}", flush=True)
    subprocess.run([sys.executable, "-m", f"training.{name}", *map(str, arguments)], check=must)


def render(counts: Mapping[str, int], workers: int, device: str) -> None:
    """Renders what is missing with several processes, and tells how far they are. counts: kind → parts."""
    scenes = ", ".join(f"{count * KINDS[kind].scenes} of {kind}" for kind, count in counts.items())
    print(f"==> data: scenes: {scenes}; {workers} processes", flush=True)
    asked = {"part": "--parts", "held": "--held", "double": "--double", "fourfold": "--fourfold"}
    counted = [word for kind, count in counts.items() for word in (asked[kind], count)]
    shared = [*counted, "--workers", workers, "--device", device]
    commands = [[sys.executable, "-m", "training.data", *map(str, shared), "--worker", str(w)] for w in range(workers)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    while any(process.poll() is None for process in running):
        for process in running:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                break
        print(f"{len(list(DATA.glob('*.npy')))} of {sum(counts.values())} parts", flush=True)
    if any(process.returncode for process in running):
        raise SystemExit("rendering failed; what is finished stays, and the same command goes on from there")


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock minutes of the transformer, by far the longest stage.")],
    go_on: Annotated[bool, typer.Option(help="Train the shipped weights further instead of starting anew.")] = False,
    further: Annotated[
        Path | None,
        typer.Option(help="Train the weights of this folder further, a diffusers pipeline; not the shipped."),
    ] = None,
    parts: Annotated[int, typer.Option(help="Hundreds of scenes to render.")] = 64,
    held: Annotated[int, typer.Option(help="Hundreds of unseen scenes to render.")] = 10,
    double: Annotated[int, typer.Option(help="Parts of 20 scenes to render at twice the size.")] = 10,
    fourfold: Annotated[int, typer.Option(help="Parts of 5 scenes to render at four times the size.")] = 6,
    measure: Annotated[bool, typer.Option(help="Measure the model at the end, 15 minutes on two cores.")] = True,
    device: Annotated[str, typer.Option(help="Where to render and train: auto, cpu or cuda.")] = "auto",
) -> None:
    """Renders, trains, exports, measures and describes the embedded model; writes it into dit360-core."""
    device = pick(device)
    RUNS.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count() or 1
    on_cpu = device == "cpu"
    counts = {"part": parts, "held": held, "double": double, "fourfold": fourfold}
    render(counts, cores if on_cpu else 1, device)
    go_on = go_on or further is not None
    if go_on:
        stage("restore", *([] if further is None else ["--folder", further]))
    else:
        stage("text", "--minutes", 4, "--device", device, "--threads", cores)
        stage("autoencoder", "--prepare")
    for size in SIZES:
        stage("latents", "--size", size, "--threads", cores)
    if not go_on:
        stage("autoencoder", "--minutes", 13, "--device", device, "--threads", cores)
    share = ["--workers", min(cores, 8), "--batch", 16] if on_cpu else ["--workers", 1, "--batch", 128]
    if on_cpu and minutes >= 30 and not shutil.which("g++"):
        print("There is no g++ here, so blocks are not compiled, and training takes a quarter longer.", flush=True)
    compiled = ["--compiled"] if on_cpu and minutes >= 30 and shutil.which("g++") else []
    stage("transformer", "--minutes", minutes, "--device", device, *share, *compiled)
    stage("export")
    if not measure:
        print("Not measured: run make eval-tiny, then python -m training.card; the card there is an older model's.")
        return
    # A short training breaks promises; what it came to is written down all the same.
    stage("evaluate", "--threads", torch.get_num_threads(), must=False)
    stage("card")


if __name__ == "__main__":
    typer.run(main)
