"""What dit360 costs over plain diffusers: the same model, prompt, steps and kernel, measured in turns in one process.

    python bench/overhead.py --model tiny --rounds 15

Each round runs diffusers' FluxPipeline and ours one after the other, in alternating order, from noise to latents. The
ratio of their times is taken round by round; the median of the ratios is the result, so a machine that slows down or
speeds up meanwhile does not matter. Beside it: what circular padding and the circular decode add, which plain
diffusers does not do at all.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dit360_core.models.families import architecture_of, locate
from dit360_core.models.flux.latents import as_stored
from dit360_core.models.weights.parts import load_parts
from dit360_core.models.weights.quiet import quiet
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.tiling_others import Whole
from dit360_core.plugins.choosing import resolve_model
from dit360_core.plugins.offers import TilingSettings
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine
from rich.console import Console
from rich.table import Table
from scaled import SIZES, make_model

PROMPT = "a castle above a meadow at sunset"


def main(
    model: Annotated[str, typer.Option(help="Known name, folder or Hub id, or one of: " + ", ".join(SIZES))] = "tiny",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    width: Annotated[int, typer.Option(help="Pixels.")] = 512,
    steps: Annotated[int, typer.Option()] = 8,
    rounds: Annotated[int, typer.Option()] = 15,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/overhead.json"),
) -> None:
    """Print the ratios and write them as JSON."""
    if model in SIZES:
        model = str(make_model(Path(tempfile.mkdtemp()) / model, model))
    described = resolve_model(model, default_registry(), lambda name: Path(name).is_dir())
    folder = locate(described.base)
    machine = Machine.detect()
    networks = architecture_of(folder).networks
    parts = load_parts(networks, folder, precision, networks.architecture.names)
    plain = networks.assemble(folder, parts).to(machine.device)
    plain.set_progress_bar_config(disable=True)
    # A second transformer with the same weights, since ours gets another attention processor; the rest is shared.
    twin = type(plain)(**{**plain.components, "transformer": copy.deepcopy(plain.transformer)})
    ours = Pipeline.from_diffusers(twin, described, attention_backend="sdpa")
    length = ours.engine.longest_prompt
    conditioning = ours.encode(PROMPT)
    embeddings = {"prompt_embeds": conditioning.positive.tokens, "pooled_prompt_embeds": conditioning.positive.pooled}
    size: dict[str, Any] = {"width": width, "height": width // 2}

    def diffusers_latents() -> torch.Tensor:
        with quiet():
            packed = plain(
                **embeddings,
                **size,
                num_inference_steps=steps,
                guidance_scale=3.0,
                generator=torch.Generator().manual_seed(1),
                max_sequence_length=length,
                output_type="latent",
            ).images
        return plain._unpack_latents(packed, size["height"], width, 8).cpu()  # type: ignore[no-any-return]

    def our_latents(padding: int, turning: bool = False, mode: str = "pad") -> torch.Tensor:
        wrapped = {"circular_padding": padding, "circular_mode": mode, "latent_rotation": turning}
        return ours.sample(conditioning, **size, steps=steps, guidance=3.0, seed=1, **wrapped).tensor

    difference = float((diffusers_latents() - our_latents(0)).abs().max())
    latents = our_latents(0)
    stored = as_stored(plain.vae, latents).to(machine.device, plain.vae.dtype)
    tiling = Whole(TilingSettings())

    def plain_decode() -> None:
        with torch.no_grad():
            plain.vae.decode(stored, return_dict=False)

    results = {
        "framework": paired(diffusers_latents, lambda: our_latents(0), rounds),
        "one pad column": paired(diffusers_latents, lambda: our_latents(1), rounds),
        "a bias instead of pad columns": paired(diffusers_latents, lambda: our_latents(1, mode="bias"), rounds),
        "pad column, turned every step": paired(diffusers_latents, lambda: our_latents(1, turning=True), rounds),
        "circular decode": paired(plain_decode, lambda: tiling.decode(ours.engine.pipe.vae, stored), rounds),
    }
    report = {
        "model": model,
        "precision": precision,
        "width": width,
        "steps": steps,
        "rounds": rounds,
        "device": machine.device,
        "device_name": machine.device_name,
        "threads": torch.get_num_threads(),
        "versions": dict(machine.versions),
        "largest_difference_without_padding": difference,
        "ratios": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2), encoding="utf-8")
    table = Table("against plain diffusers", "median ratio", "quartiles", "diffusers s", "ours s")
    for name, found in results.items():
        low, _, high = found["quartiles"]
        table.add_row(
            name, f"{found['median']:.3f}", f"{low:.3f} … {high:.3f}", f"{found['theirs']:.3f}", f"{found['ours']:.3f}"
        )
    console = Console()
    console.print(table)
    console.print(f"Largest difference of the latents without padding: {difference:.1e}. Written: {output}")


def paired(theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Two functions timed in turns: median and quartiles of ours / theirs, and both medians in seconds."""
    theirs()
    ours()
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for i in range(rounds):
        order = [("theirs", theirs), ("ours", ours)]
        for name, function in order if i % 2 else reversed(order):
            started = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    ratios = [o / t for o, t in zip(times["ours"], times["theirs"], strict=True)]
    return {
        "median": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4),
        "theirs": statistics.median(times["theirs"]),
        "ours": statistics.median(times["ours"]),
    }


if __name__ == "__main__":
    typer.run(main)
