"""Writes the model card: what the checkpoints say about training, and what `measure` finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from training import autoencoder, checkpoint, text, transformer
from training.export import TARGET
from training.measure import figures, size_of

_CARD = """\
---
library_name: diffusers
pipeline_tag: text-to-image
tags: [panorama, equirectangular, flux, demonstration]
---
# tiny: the embedded demonstration model of dit360

A very small model in the format of FLUX.1-dev. It turns a prompt into a 360° equirectangular panorama of a simple,
toy-like scene on a CPU, so that every control of dit360 can be tried and measured on a real picture without a GPU, a
download or an account. It is a demonstration, not a replacement for FLUX.1-dev with DiT360.

| | |
|---|---|
| format | a standard diffusers folder (`FluxPipeline`), fp16 safetensors; {size} |
| transformer | FluxTransformer2DModel, {double} double and {single} single blocks, {heads} heads of 32 |
| autoencoder | AutoencoderKL, 8x8 pixels to 16 channels; the encoder is a principal component analysis |
| native size | 256x128 (width x height); 512x256 was trained less and is worse, other sizes not at all |
| text | English, about 250 words; T5 sequences of 32 to 64 tokens (`max_sequence_length`), CLIP up to 77 |
| guidance | {guidance} |
| on a CPU | load it in float32 |
| meridian | wrap it when decoding, turn it between steps (as dit360 does), or a seam shows (measured below: unturned) |

## Data
{scenes} scenes rendered by the code in `training/`: sea, meadow, desert, snow or stone plaza; mountains, forest, city
or castle on the horizon; noon, sunset, dawn or night; clear, cloudy or overcast; fog or snowfall; and box-shaped rooms
in 15 % of them. Captions are made from the scene's parameters. No photograph and no other model's weights or output
was used.

## Training
On two CPU cores that ran other programs too. Wall-clock minutes:

| stage | minutes | steps | result on unseen scenes |
|---|---|---|---|
| text encoders | {text_minutes:.0f} | {text_steps} | attributes guessed right: T5 {t5:.1%}, CLIP {clip:.1%} |
| autoencoder's decoder | {vae_minutes:.0f} | {vae_steps} | PSNR {psnr_small:.1f} and {psnr_large:.1f} dB (both sizes) |
| transformer | {minutes:.0f} | {steps} | {samples} samples seen; loss below |

A caption may leave out an attribute of its scene, so no text encoder can guess all of them.

## Measured
By `python -m training.measure`, on the machine of the training:

```
{measured}
```

## What it cannot do
* Anything that is not in the list under Data: no people, animals, vehicles, text, streets or indoor scenes beyond one
  kind of room. Unknown words are ignored or misread.
* Fine detail: castles, skylines and furniture are rough shapes.
* Sizes other than the two above, and prompts of more than about 40 words.
"""


def write(folder: Path) -> Path:
    """Measures the exported model in `folder` and writes its README.md."""
    vae = checkpoint.load(autoencoder.CHECKPOINT)[1]
    words = checkpoint.load(text.CHECKPOINT)[1]
    tensors, flow = checkpoint.load(transformer.CHECKPOINT)
    distilled = any(name.startswith("teacher/") for name in tensors)
    double, single, heads = flow["shape"]
    scenes = len(transformer.read("small")[1])
    card = folder / "README.md"
    card.write_text(
        _CARD.format(
            size=size_of(folder),
            double=double,
            single=single,
            heads=heads,
            guidance="distilled into the guidance input for values of 1 to 5: 1 is plain, about 3 is clearer"
            if distilled
            else "not distilled: `guidance_scale` does nothing, keep it at 1 and use `true_cfg_scale` of about 3",
            scenes=scenes,
            text_minutes=words["spent"] / 60,
            text_steps=words["step"],
            t5=words["right_t5"],
            clip=words["right_clip"],
            vae_minutes=vae["spent"] / 60,
            vae_steps=vae["step"],
            psnr_small=vae["psnr_128"],
            psnr_large=vae["psnr_256"],
            minutes=flow["spent"] / 60,
            steps=flow["step"],
            samples=flow["samples"],
            measured="\n".join(figures(folder, guidance=3.0 if distilled else 1.0)),
        ),
        encoding="utf-8",
    )
    return card


def main(
    folder: Annotated[Path, typer.Option(help="An exported folder.")] = TARGET,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Writes the model card of the exported model."""
    torch.set_num_threads(threads)
    print(write(folder))


if __name__ == "__main__":
    typer.run(main)
