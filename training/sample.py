# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Makes pictures with the trained parts, the plain way of FluxPipeline but padded, and lays them out on one sheet."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import FluxPipeline
from PIL import Image, ImageDraw
from torch import Tensor

from training.captions import HELD_OUT_PROMPTS
from training.data import RUNS
from training.flux_parts import CHANNELS, pack, schedule, unpack
from training.trainer import velocity
from training.wrapping import wrap_longitude


@torch.no_grad()
def encode(pipeline: FluxPipeline, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Text features as FluxPipeline makes them: (B, length, D) and pooled (B, D)."""
    words, pooled, _ = pipeline.encode_prompt(prompts, prompts, max_sequence_length=length)
    return words, pooled


@torch.no_grad()
def sample(
    pipeline: FluxPipeline,
    prompts: list[str],
    height: int = 128,
    steps: int = 20,
    guidance: float = 1.0,
    true_cfg: float = 1.0,
    seed: int = 0,
    length: int = 64,
    bf16: bool = True,
    padding: int = 1,
) -> Tensor:
    """Pictures (B, 3, height, 2·height) in [0, 1] for `prompts`; height is a multiple of 16.

    guidance: the embedded scale. true_cfg: classifier-free guidance with an empty negative prompt, off at 1.
    padding: copied token columns on either side.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = height // 8
    grid = pack(torch.randn(len(prompts), CHANNELS, rows, 2 * rows, generator=generator))
    words, pooled = encode(pipeline, prompts, length)
    empty, empty_pooled = encode(pipeline, [""] * len(prompts), length)
    scale = torch.full((len(prompts),), guidance)
    sigmas = schedule(steps, grid.shape[1] * (grid.shape[2] + 2 * padding))
    for now, then in pairwise(sigmas):
        sigma = now.expand(len(prompts))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            v = velocity(pipeline.transformer, grid, sigma, words, pooled, scale, padding).float()
            if true_cfg > 1:
                plain = velocity(pipeline.transformer, grid, sigma, empty, empty_pooled, scale, padding).float()
                v = plain + true_cfg * (v - plain)
        grid = grid + (then - now) * v
    config = pipeline.vae.config
    latents = unpack(grid) / config.scaling_factor + config.shift_factor
    return torch.cat([pipeline.vae.decode(x).sample for x in latents.split(1)]).clamp(-1, 1) / 2 + 0.5


def sheet(pictures: Tensor, prompts: list[str], columns: int = 3) -> Image.Image:
    """Pictures (N, 3, H, W) in [0, 1] in a grid with their prompts below them."""
    _, _, height, width = pictures.shape
    rows = -(-len(prompts) // columns)
    page = Image.new("RGB", (columns * (width + 6), rows * (height + 20)), "white")
    pen = ImageDraw.Draw(page)
    for number, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        left, top = number % columns * (width + 6), number // columns * (height + 20)
        data = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        page.paste(Image.fromarray(data), (left, top))
        pen.text((left + 2, top + height + 3), prompt[: width // 6], fill="black")
    return page


def main(
    out: Annotated[Path, typer.Option(help="Picture to write.")] = RUNS / "contact.png",
    folder: Annotated[Path | None, typer.Option(help="A diffusers folder; default: the checkpoints.")] = None,
    height: Annotated[int, typer.Option(help="128 or 256.")] = 128,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Embedded guidance.")] = 1.0,
    true_cfg: Annotated[float, typer.Option(help="Classifier-free guidance; doubles the work.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompts; default: the held-out list.")] = None,
) -> None:
    """Writes a contact sheet."""
    from training.export import assemble

    torch.set_num_threads(threads)
    if folder:
        pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
        wrap_longitude(pipeline.vae)
    else:
        pipeline = assemble()
    prompts = list(prompt or HELD_OUT_PROMPTS)
    start = time.monotonic()
    pictures = sample(pipeline, prompts, height, steps, guidance, true_cfg, seed)
    print(f"{len(prompts)} pictures in {time.monotonic() - start:.1f} s")
    sheet(pictures, prompts).save(out, quality=88)


if __name__ == "__main__":
    typer.run(main)
