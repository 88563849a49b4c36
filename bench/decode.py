"""What decoding costs, untiled, in diffusers' tiles and in ours: peak memory, time and error of an autoencoder.

    python bench/decode.py --sizes 1024x512,2048x1024
    python bench/decode.py --autoencoder qwen --sizes 1024x512,2048x1024
    python bench/decode.py --device cuda --precision bf16 --sizes 2048x1024,4096x2048,8192x4096

The autoencoder has the shape of FLUX.1's (kl), FLUX.2's (flux2; with the small decoder: flux2-small) or Qwen-Image's
(qwen), and random weights; memory and time do not depend on their values. diffusers' own is that of films with all
kernels, run for one frame; ours has flattened ones, as the core reads them. Every
measurement is a process of its own, since an allocator that has been large stays so. On the CPU the peak is that of the
resident memory (VmHWM, reset just before) above what the process held with the weights loaded and the kernels warm; on
CUDA it is the allocator's. Times are of one run each, or the median of several with --rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peak import in_a_process, memory, reset_peak
from rich.console import Console
from rich.table import Table

WAYS = ("diffusers", "diffusers tiled", "whole", "stored", "mixed", "recomputed", "offloaded")


def main(
    sizes: Annotated[str, typer.Option(help="Widths×heights of pictures, separated by commas.")] = "1024x512",
    ways: Annotated[str, typer.Option(help="Which ways of decoding; default: all that make sense here.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    encode: Annotated[bool, typer.Option("--encode", help="Encode pictures instead.")] = False,
    autoencoder: Annotated[str, typer.Option(help="kl, flux2, flux2-small or qwen.")] = "kl",
    rounds: Annotated[int, typer.Option(help="Processes for each figure; the median counts.")] = 1,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/decode.json"),
) -> None:
    """Measure every way at every size and print a table for each size."""
    chosen = [w.strip() for w in ways.split(",")] if ways else [w for w in WAYS if w != "offloaded" or device != "cpu"]
    console = Console()
    results: list[dict[str, Any]] = []
    for size in sizes.split(","):
        width, height = (int(side) for side in size.split("x"))
        table = Table("way", "peak MiB", "predicted", "of diffusers", "seconds", "of diffusers", "max error σ", "tiles")
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "whole.pt"
            # The circular decode in one piece comes first: the others are compared with it.
            for way in sorted(chosen, key=lambda name: name != "whole"):
                asked = {
                    "way": way,
                    "width": width,
                    "height": height,
                    "device": device,
                    "precision": precision,
                    "encode": encode,
                    "autoencoder": autoencoder,
                    "reference": str(reference),
                }
                runs = [{**asked, **in_a_process(__file__, asked)} for _ in range(rounds)]
                worked = [run for run in runs if "seconds" in run]
                row = dict(worked[-1] if worked else runs[-1])
                for key in ("seconds", "peak"):
                    if worked:
                        row[key] = statistics.median(run[key] for run in worked)
                rows.append(row)
        by_way = {row["way"]: row for row in rows}
        base = by_way.get("diffusers", {})
        for way in chosen:
            row = by_way[way]
            if "seconds" not in row:
                table.add_row(way, row["failed"])
                continue
            table.add_row(
                way,
                f"{row['peak'] / 2**20:.0f}",
                f"{row['predicted'] / 2**20:.0f}" if row["predicted"] else "",
                f"{row['peak'] / base['peak']:.2f}" if "peak" in base else "",
                f"{row['seconds']:.1f}",
                f"{row['seconds'] / base['seconds']:.2f}" if "seconds" in base else "",
                f"{row['error']:.1e}" if row["error"] is not None else "",
                str(row["tiles"] or ""),
            )
        table.title = f"{autoencoder}, {'encode' if encode else 'decode'} {width}×{height}, {precision}, {device}"
        console.print(table)
        results += rows
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2), encoding="utf-8")
    console.print(f"Written: {output}")


# ------------------------------------------------------------------------------------------------- in the child


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """One measurement."""
    from dit360_core.sphere.vae import (
        decoder_steps,
        encoder_steps,
        is_run_by_steps,
        latent_channels,
        make_schedule,
        predict_whole,
    )
    from dit360_core.system.dtypes import torch_dtype

    device, dtype = torch.device(asked["device"]), torch_dtype(asked["precision"])
    width, height, way, encode = asked["width"], asked["height"], asked["way"], asked["encode"]
    made = {"kl": flux_shaped, "flux2": flux2_shaped, "flux2-small": flux2_small, "qwen": qwen_shaped}
    vae = made[asked["autoencoder"]](way).to(device, dtype).eval().requires_grad_(False)
    steps = encoder_steps(vae) if encode else decoder_steps(vae)

    def sample(width: int, height: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (1, 3, height, width) if encode else (1, latent_channels(vae), height // 8, width // 8)
        return torch.randn(shape, generator=generator).to(device, dtype)

    def scheduled(given: torch.Tensor) -> Any:
        return make_schedule(steps, *given.shape[2:], dtype.itemsize, way, tile_size=8192)

    _run(vae, way, sample(128, 64), encode, scheduled)
    given = sample(width, height)
    reset_peak(device)
    before = memory(device)[0]
    started = time.perf_counter()
    out, tiles = _run(vae, way, given, encode, scheduled)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = memory(device)[1] - before
    reference, error = Path(asked["reference"]), None
    if way == "whole":
        torch.save(out.cpu(), reference)
    elif reference.exists():
        expected = torch.load(reference).float()
        error = float((out.cpu().float() - expected).abs().max() / expected.std())
    predicted = None
    if way == "whole":
        predicted = predict_whole(steps, *given.shape[2:], dtype.itemsize, by_steps=is_run_by_steps(vae))
    elif not way.startswith("diffusers"):
        predicted = scheduled(given).peak_bytes
    name = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "peak": peak,
        "seconds": seconds,
        "error": error,
        "tiles": tiles,
        "predicted": predicted,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def flux_shaped(way: str = "") -> Any:
    """FLUX.1's autoencoder with random weights."""
    from dit360_core.models.flux.small import small_autoencoder

    return small_autoencoder(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, sample_size=1024
    )


def flux2_shaped(way: str, **config: Any) -> Any:
    """FLUX.2's autoencoder with random weights."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKLFlux2(**blocks, **config)


def flux2_small(way: str) -> Any:
    """FLUX.2's autoencoder with a decoder of fewer channels."""
    return flux2_shaped(way, decoder_block_out_channels=(96, 192, 384, 384))


def qwen_shaped(way: str) -> Any:
    """Qwen-Image's autoencoder with random weights."""
    from diffusers import AutoencoderKLQwenImage
    from dit360_core.sphere.vae import flatten, one_frame

    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage()
    if not way.startswith("diffusers"):
        flatten(one_frame(vae))
    return vae


def _run(vae: Any, way: str, given: torch.Tensor, encode: bool, scheduled: Any) -> tuple[torch.Tensor, int | None]:
    from dit360_core.sphere.vae import decode_exact, decode_whole, encode_exact, encode_whole

    if way == "whole":
        return (encode_whole if encode else decode_whole)(vae, given), 1
    if way.startswith("diffusers"):
        if way == "diffusers tiled":
            vae.enable_tiling()
        film = hasattr(vae, "temperal_downsample")
        given = given.unsqueeze(2) if film else given
        with torch.no_grad():
            made = vae.encode(given, return_dict=False)[0].mode() if encode else vae.decode(given, return_dict=False)[0]
        return made.squeeze(2) if film else made, None
    return (encode_exact if encode else decode_exact)(vae, given, scheduled(given))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
