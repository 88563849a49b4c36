# diffusers does not type its models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Makes checkpoints of an exported folder with fewer latent channels and blocks than are trained now.

The latents that the folder's model knows stay what they are, to the last digit. The further ones are the principal
components of what those leave out, at the scale that continues theirs. The transformer starts blind to them and
predicts zero for them, and its further blocks start closed, so that for the old channels it is the old model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from training import autoencoder, linear_decoder, linear_encoder, restore, transformer
from training.data import read_parts, to_float
from training.export import TARGET
from training.flux_parts import build_transformer


@torch.no_grad()
def widen_encoder(old: AutoencoderKL, pictures: list[Tensor]) -> AutoencoderKL:
    """An autoencoder whose first latents are `old`'s, the others from pictures, each (B, 3, H, W) in [-1, 1]."""
    p2, p3, known, bias = linear_encoder.maps(old)
    rows = torch.cat([linear_encoder.code(p, p2, p3).flatten(0, 2) for p in pictures])
    mean = rows.mean(0)
    centred = (rows - mean).double()
    covariance = centred.T @ centred / len(centred)
    directions = torch.nn.functional.normalize(known.double(), dim=1)
    rest = torch.eye(len(covariance), dtype=torch.double) - torch.linalg.pinv(directions) @ directions
    values, vectors = torch.linalg.eigh(rest @ covariance @ rest)
    count = linear_encoder.LATENTS - len(known)
    deviation = values.flip(0)[:count].sqrt()
    exponent = 1 - linear_encoder.WHITENING
    spread = ((directions @ covariance) * directions).sum(1).sqrt()
    scale = (known.double().norm(dim=1) * spread / spread**exponent).mean()
    further = vectors.flip(1)[:, :count].T * (scale * deviation ** (exponent - 1)).unsqueeze(1)
    further = further.float()
    fresh = autoencoder.build()
    linear_encoder.assign(fresh, p2, p3, torch.cat((known, further)), torch.cat((bias, -(further @ mean))))
    return fresh


@torch.no_grad()
def widen_transformer(old: FluxTransformer2DModel, single: int) -> FluxTransformer2DModel:
    """A transformer of all latents with `single` single blocks that does what `old` does with the first ones."""
    config = old.config
    fresh = build_transformer(config.num_layers, single, config.num_attention_heads)
    state, given = fresh.state_dict(), old.state_dict()
    for name, value in given.items():
        if state[name].shape == value.shape:
            state[name] = value
            continue
        state[name] = torch.zeros_like(state[name])
        state[name][tuple(slice(0, size) for size in value.shape)] = value
    fresh.load_state_dict(state)
    return fresh


def main(
    folder: Annotated[Path, typer.Option(help="A diffusers folder.")] = TARGET,
    single: Annotated[int, typer.Option(help="Single blocks of the new transformer.")] = 6,
) -> None:
    """Writes the checkpoints that are missing."""
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pictures, _ = read_parts(limit=4)
    if not autoencoder.CHECKPOINT.exists():
        seen = [to_float(pictures[::3], 128), to_float(pictures[::12])]
        vae = widen_encoder(pipeline.vae, seen)
        linear_decoder.initialize(vae, [to_float(pictures[::8], 128), to_float(pictures[::12])])
        linear_decoder.refine(vae, pictures)
        restore.begin_autoencoder(vae, pipeline.vae.config)
        print(f"{autoencoder.CHECKPOINT}: {float(autoencoder.psnr(vae, to_float(pictures[5::40])).mean()):.1f} dB")
    if not transformer.CHECKPOINT.exists():
        restore.begin_transformer(widen_transformer(pipeline.transformer, single))
        print(transformer.CHECKPOINT)
    for path in restore.restore(folder):
        print(path)


if __name__ == "__main__":
    typer.run(main)
