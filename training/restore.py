# diffusers and transformers do not type their models.
# mypy: disable-error-code="attr-defined,no-untyped-call"
"""Makes checkpoints of an exported folder, so that training can go on from the weights that are shipped.

An exported folder holds no optimizer state and no teacher; the stages start those afresh. Text encoders and the
autoencoder's encoder stay as they are for as long as the transformer is to be continued: its latents and its text
features are theirs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from diffusers.configuration_utils import FrozenDict

from training import autoencoder, checkpoint, text, transformer
from training.export import TARGET


def restore(folder: Path) -> list[Path]:
    """Writes the checkpoints of all three stages from `folder`; existing ones are left alone. Returns the new ones."""
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    made = []
    if not text.CHECKPOINT.exists():
        text.CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
        for name, part in (("clip", "tokenizer"), ("t5", "tokenizer_2")):
            shutil.rmtree(text.TOKENIZERS / name, ignore_errors=True)
            getattr(pipeline, part).save_pretrained(text.TOKENIZERS / name)
        encoders = text.Text(pipeline.tokenizer, pipeline.tokenizer_2)
        encoders.text_encoder, encoders.text_encoder_2 = pipeline.text_encoder, pipeline.text_encoder_2
        checkpoint.save(text.CHECKPOINT, checkpoint.pack(model=encoders), {"restored": True})
        made.append(text.CHECKPOINT)
    if not autoencoder.CHECKPOINT.exists():
        begin_autoencoder(pipeline.vae, pipeline.vae.config)
        made.append(autoencoder.CHECKPOINT)
    if not transformer.CHECKPOINT.exists():
        begin_transformer(pipeline.transformer)
        made.append(transformer.CHECKPOINT)
    return made


def begin_autoencoder(vae: AutoencoderKL, config: FrozenDict) -> None:
    """Writes the checkpoint at which training of an autoencoder begins; config: has what latents are shifted by."""
    notes = {"step": 0, "spent": 0.0, "shift": config.shift_factor, "scale": config.scaling_factor}
    checkpoint.save(autoencoder.CHECKPOINT, checkpoint.pack(model=vae, average=vae), notes)


def begin_transformer(denoiser: FluxTransformer2DModel) -> None:
    """Writes the checkpoint at which training of a transformer begins."""
    config = denoiser.config
    shape = [config.num_layers, config.num_single_layers, config.num_attention_heads]
    notes = {"step": 0, "samples": 0, "spent": 0.0, "shape": shape}
    checkpoint.save(transformer.CHECKPOINT, checkpoint.pack(model=denoiser, average=denoiser), notes)


def main(
    folder: Annotated[Path, typer.Option(help="A diffusers folder.")] = TARGET,
) -> None:
    """Writes the checkpoints that are missing."""
    for path in restore(folder):
        print(path)


if __name__ == "__main__":
    typer.run(main)
