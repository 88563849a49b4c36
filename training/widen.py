# diffusers does not type its models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Makes checkpoints of an exported folder with fewer latent channels and blocks than are trained now.

The latents that the folder's model knows stay what they are, to the last digit. The further ones are the principal
components of what those leave out, at the scale that continues theirs. The transformer starts blind to them and
predicts zero for them, and its further blocks start closed, so that for the old channels it is the old model.
"""

from __future__ import annotations

import math
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


@torch.no_grad()
def widen_stream(old: FluxTransformer2DModel, heads: int) -> FluxTransformer2DModel:
    """A transformer of more heads, of 32 channels each, that does at first what `old` does.

    The further channels of the stream start at zero behind closed gates, and random weights read them, so that both
    sides learn. A norm over them makes the old channels larger by the root of the ratio, and whoever reads those is
    made smaller by as much; it is exact as far as the old ones' mean is zero.
    """
    config = old.config
    fresh = build_transformer(config.num_layers, config.num_single_layers, heads, config.in_channels // 4)
    width = 32 * config.num_attention_heads
    larger = math.sqrt(heads / config.num_attention_heads)
    state = fresh.state_dict()
    for name, value in old.state_dict().items():
        made = state[name]
        if made.shape == value.shape:
            state[name] = value
            continue
        rows, columns = ((made.shape[dim] != value.shape[dim]) if dim < made.ndim else False for dim in (0, 1))
        known = _known(made, 0, width, 32 * heads) if rows else made
        own = value.unflatten(0, (-1, width)) if rows else value
        reads = name.endswith(_READS) or name == "proj_out.weight"
        if made.ndim == 1 or ".norm" in name or name.startswith(("norm_out", "x_embedder", "context_embedder")):
            made.zero_()
        elif columns and not reads:
            known.zero_()  # further heads and hidden channels change no old channel yet
        if columns:
            known = _known(known, known.ndim - 1, width, 32 * heads)
            own = own.unflatten(-1, (-1, width))
        known.copy_(own)
        if reads and made.ndim == 2:
            known /= larger
        for chunk in _shifts(name):
            known[chunk] *= larger
    fresh.load_state_dict(state)
    return fresh


_READS = tuple(
    f"{name}.weight" for name in ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "net.0.proj", "proj_mlp")
)
"""Ends of the names of what reads the stream by way of a norm."""


def _known(tensor: Tensor, dim: int, before: int, now: int) -> Tensor:
    """A view of the old channels in each of a tensor's groups of channels."""
    return tensor.unflatten(dim, (-1, now)).narrow(dim + 1, 0, before)


def _shifts(name: str) -> tuple[int, ...]:
    """Groups of a modulation that are added after its norm, in the order of diffusers' AdaLayerNorm classes."""
    if name.startswith("norm_out.linear"):
        return (1,)
    if ".norm1" in name:
        return (0, 3)
    return (0,) if ".norm.linear" in name else ()


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
