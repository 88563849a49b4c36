# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Encodes the rendered pictures once, upright and mirrored, so that the transformer's training reads latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from torch import Tensor

from training import autoencoder, checkpoint, linear_encoder
from training.data import DATA, KINDS, RUNS, to_float
from training.scenes import Scene

LATENTS = RUNS / "latents"
SIZES = {"small": 128, "large": 256, "double": 512, "fourfold": 1024}
"""Name and height in pixels of what is trained on; latents are (32, height / 8, height / 4)."""


def kinds_of(size: str) -> tuple[str, ...]:
    """Whose pictures are encoded at a size: larger ones have pictures of their own."""
    return (size,) if size in KINDS else ("part", "held")


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, height: int) -> Tensor:
    """Normalized latents (N, 2, 32, height / 8, height / 4) of bytes (N, H, W, 3): upright, mirrored."""
    kernel, bias = linear_encoder.as_convolution(vae)
    rows = []
    for group in pictures.split(max(1, 20 * 256 * 256 // height**2)):
        x = to_float(group, height)
        mode = F.conv2d(torch.stack((x, x.flip(-1)), dim=1).flatten(0, 1), kernel, bias, stride=8)
        rows.append(((mode - vae.config.shift_factor) * vae.config.scaling_factor).unflatten(0, (-1, 2)))
    return torch.cat(rows)


def there(size: str) -> bool:
    """Whether anything is encoded at a size that is trained on."""
    return any(LATENTS.glob(f"{kinds_of(size)[0]}-*-{size}.safetensors"))


def read(size: str, kind: str | None = None) -> tuple[Tensor, list[Scene]]:
    """Latents (N, 2, 32, h, w) in half precision of every finished part, and their scenes.

    kind: of parts; None: those that are trained on.
    """
    kind = kind or kinds_of(size)[0]
    files = sorted(LATENTS.glob(f"{kind}-*-{size}.safetensors"))
    if not files:
        raise FileNotFoundError(f"no {size} latents in {LATENTS}; run python -m training.latents first")
    latents = torch.cat([checkpoint.load(file)[0]["latents"] for file in files])
    scenes = []
    for file in files:
        records = json.loads((DATA / f"{file.name.rsplit('-', 1)[0]}.json").read_text())
        scenes += [Scene(**record) for record in records]
    return latents, scenes


def main(
    size: Annotated[str, typer.Option(help="small, large, double or fourfold: 128x256 to 1024x2048.")] = "small",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Encodes every part that has no latents of this size yet."""
    import numpy as np

    torch.set_num_threads(threads)
    LATENTS.mkdir(parents=True, exist_ok=True)
    vae = autoencoder.load()
    for file in sorted(file for kind in kinds_of(size) for file in Path(DATA).glob(f"{kind}-*.npy")):
        final = LATENTS / f"{file.stem}-{size}.safetensors"
        if final.exists():
            continue
        latents = encode(vae, torch.from_numpy(np.load(file)), SIZES[size])
        checkpoint.save(final, {"latents": latents.half()}, {})
        print(f"{final.name} mean {float(latents.mean()):.3f} std {float(latents.std()):.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
